"""What is in order in a layout but may surprise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from llm_pretrain.config.batch_plan import evaluation_share, plan_batches
from llm_pretrain.config.degrees import Degrees
from llm_pretrain.config.parallel_options import OPTIONS
from llm_pretrain.config.run_config import RunConfig
from llm_pretrain.config.training_arguments import TrainingArguments

if TYPE_CHECKING:
    from llm_pretrain.config.model_config import ModelConfig

# Of the arithmetic of a whole run.
_MOST_EVALUATION = 0.1


def layout_notices(run: RunConfig, model: ModelConfig, degrees: Degrees) -> list[str]:
    """One line for each."""
    return [
        *_model(run, model),
        *_tensor(model, degrees),
        *_layout(run, degrees),
        *_idle_options(run.training, degrees),
        *_evaluation(run, degrees),
    ]


def _model(run: RunConfig, model: ModelConfig) -> Iterator[str]:
    length = run.data.max_seq_length
    if length > model.max_position_embeddings:
        yield (
            f"max_seq_length: {length} is longer than the {model.max_position_embeddings} "
            "positions that the model was made for"
        )
    if run.data.reset_position_ids and model.alibi:
        yield (
            "reset_position_ids: no effect: the model knows positions by the distances between "
            "them alone"
        )
    if run.model.continue_training and run.model.initializer_range is not None:
        yield "initializer_range: no effect on the weights that continue_training reads"
    wanted = run.model.vocab_size
    if wanted is not None and wanted != model.vocab_size:
        yield (
            f"vocab_size: {wanted} is too small for the tokenizer; the model has {model.vocab_size}"
        )
    for key, value in (
        ("hidden_dropout_prob", model.hidden_dropout),
        ("attention_probs_dropout_prob", model.attention_dropout),
    ):
        if run.sources[key] != "default" and getattr(run.model, key) not in (value, None):
            yield f"{key}: no effect: the model's config has no such dropout"


def _tensor(model: ModelConfig, degrees: Degrees) -> Iterator[str]:
    ranks, key_heads, rows = degrees.tensor, model.num_key_value_heads, model.vocab_size
    if key_heads % ranks:
        yield (
            f"tensor_parallel_degree: {key_heads} key–value heads over {ranks} ranks: each rank "
            "keeps the weights of all of them"
        )
    if rows % ranks:
        yield (
            f"tensor_parallel_degree: the vocabulary of {rows} is padded to "
            f"{-(-rows // ranks) * ranks} rows for {ranks} ranks; the padding is not saved"
        )


def _layout(run: RunConfig, degrees: Degrees) -> Iterator[str]:
    if run.training.sharding and degrees.sharding == 1:
        yield f"sharding: {run.training.sharding} over one process changes nothing"
    steps = run.training.gradient_accumulation_steps
    if steps < degrees.pipeline:
        yield (
            f"gradient_accumulation_steps: {steps} micro-batches cannot keep {degrees.pipeline} "
            "pipeline stages busy; the more of them, the less each stage waits"
        )


def _evaluation(run: RunConfig, degrees: Degrees) -> Iterator[str]:
    plan = plan_batches(run, degrees)
    share = evaluation_share(run, plan)
    if share > _MOST_EVALUATION:
        yield (
            f"eval_iters: evaluation, of {plan.valid_samples:,} samples each time, is {share:.0%} "
            "of the run's arithmetic; lower eval_iters or raise eval_steps"
        )


def _idle_options(training: TrainingArguments, degrees: Degrees) -> Iterator[str]:
    stage = training.sharding_stage if degrees.sharding > 1 else 0
    needs = {
        "enable_dp_comm_overlap": (
            "data parallelism without sharding",
            stage == 0 and degrees.data * degrees.sequence > 1,
        ),
        "enable_sharding_comm_overlap": ("sharding over several ranks", stage > 0),
        "enable_stage1_overlap": ("stage1 over several ranks", stage == 1),
        "enable_overlap": ("sharding over several ranks", stage > 0),
        "enable_stage2_overlap": ("stage2 and stage3 over several ranks", stage > 1),
        "enable_stage1_allgather_overlap": (
            "stage1 and stage2 over several ranks",
            stage in (1, 2),
        ),
        "enable_stage1_broadcast_overlap": (
            "stage1 and stage2 over several ranks",
            stage in (1, 2),
        ),
    }
    for key in OPTIONS:
        for name in getattr(training, key):
            if name in needs and not needs[name][1]:
                yield f"{key} {name}: no effect in this layout: it is for {needs[name][0]}"
