"""What the model and the degrees demand of each other, and what in a layout may surprise."""

from __future__ import annotations

import math
from collections.abc import Iterator

from llm_pretrain.config.degrees import Degrees, divisors, either, nearest_multiples
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.config.parallel_options import OPTIONS
from llm_pretrain.config.run_config import RunConfig, evaluation_share, plan_batches
from llm_pretrain.config.training_arguments import TrainingArguments


def check_layout(run: RunConfig, model: ModelConfig, degrees: Degrees) -> list[str]:
    """Every reason why this model cannot be trained with these degrees; [] if it can.

    Each says what would be possible instead.
    """
    return [
        *_model(run, model),
        *_documents(run, model),
        *_tensor(model, degrees),
        *_sep(model, degrees),
        *_pipeline(run, model, degrees),
        *_ramp(run, degrees),
        *_length_ramp(run, model),
        *_data_stages(run, degrees),
        *_sequence(run, degrees),
        *_recompute(run, model),
    ]


def _model(run: RunConfig, model: ModelConfig) -> Iterator[str]:
    heads, key_heads = model.num_attention_heads, model.num_key_value_heads
    if heads % key_heads:
        yield (
            f"num_attention_heads {heads} is no multiple of the model's {key_heads} key–value "
            f"heads; possible near it: {either(nearest_multiples(heads, key_heads))}"
        )
    length, positions = run.data.max_seq_length, model.max_position_embeddings
    if model.learned_positions is not None and length > positions:
        yield (
            f"max_seq_length {length} is more than the {positions} positions that the model's "
            f"weights have a vector for; it can be at most {positions}"
        )


def _documents(run: RunConfig, model: ModelConfig) -> Iterator[str]:
    keys = [key for key in ("reset_attention_mask", "reset_position_ids") if getattr(run.data, key)]
    if keys and not model.end_tokens:
        names = " and ".join(keys)
        yield (
            f"{names}: documents end with the model's eos_token_id, but its config has none; "
            f"add it to its config.json, or set {names} to false"
        )


def _tensor(model: ModelConfig, degrees: Degrees) -> Iterator[str]:
    heads, width = model.num_attention_heads, model.intermediate_size
    parts = [f"{heads} attention heads"] if heads % degrees.tensor else []
    if width % degrees.tensor:
        parts.append(f"feed-forward width of {width}")
    if parts:
        yield (
            f"tensor_parallel_degree {degrees.tensor} does not divide the model's "
            f"{' and '.join(parts)}; it can be {either(divisors(math.gcd(heads, width)))}"
        )


def _sep(model: ModelConfig, degrees: Degrees) -> Iterator[str]:
    heads = model.num_attention_heads
    if heads % degrees.tensor:
        return
    local = heads // degrees.tensor
    if local % degrees.sep:
        share = f", {local} on each tensor-parallel rank" if degrees.tensor > 1 else ""
        yield (
            f"sep_parallel_degree {degrees.sep} does not divide the model's {heads} attention "
            f"heads{share}; it can be {either(divisors(local))}, and context_parallel_degree "
            "needs no heads"
        )


def _pipeline(run: RunConfig, model: ModelConfig, degrees: Degrees) -> Iterator[str]:
    stages, virtual, layers = degrees.pipeline, degrees.virtual_pipeline, model.num_hidden_layers
    if stages * virtual > layers:
        times = f" × virtual_pp_degree {virtual}" if virtual > 1 else ""
        yield (
            f"pipeline_parallel_degree {stages}{times} needs {stages * virtual} layers, but the "
            f"model has {layers}; possible is {_smaller_pipelines(stages, virtual, layers)}"
        )
    steps = run.training.gradient_accumulation_steps
    if virtual > 1 and steps % stages:
        yield (
            f"gradient_accumulation_steps {steps} is no multiple of pipeline_parallel_degree "
            f"{stages}, which virtual_pp_degree {virtual} needs; possible near it: "
            f"{either(nearest_multiples(steps, stages))}"
        )


def _ramp(run: RunConfig, degrees: Degrees) -> Iterator[str]:
    training = run.training
    if training.batch_ramp is None:
        return
    share = training.per_device_train_batch_size * degrees.dataset
    in_a_row = degrees.pipeline if degrees.virtual_pipeline > 1 else 1
    for _, samples in training.batch_ramp:
        if samples % (share * in_a_row):
            yield (
                f"batch_ramp: {samples} samples are no multiple of {share * in_a_row}, of "
                f"{degrees.dataset} data ranks × per_device_train_batch_size "
                f"{training.per_device_train_batch_size}"
                f"{f' × {in_a_row} stages' * (in_a_row > 1)}; possible near it: "
                f"{either(nearest_multiples(samples, share * in_a_row))}"
            )
    last, batch = training.batch_ramp[-1][1], share * training.gradient_accumulation_steps
    if last != batch:
        fitting = f"; set it to {last // share}" if last % share == 0 else ""
        yield (
            f"batch_ramp ends at {last} samples, but gradient_accumulation_steps "
            f"{training.gradient_accumulation_steps} makes a batch of {batch}{fitting}"
        )


def _length_ramp(run: RunConfig, model: ModelConfig) -> Iterator[str]:
    ramp, whole = run.training.length_ramp, run.data.max_seq_length
    if ramp is None:
        return
    for _, length in ramp:
        if whole % length:
            yield (
                f"length_ramp: {length} does not divide max_seq_length {whole}, so that samples "
                f"can't be cut into sequences of it; it can be {either(divisors(whole))}"
            )
    if ramp[-1][1] != whole:
        yield f"length_ramp ends at {ramp[-1][1]}, which must be max_seq_length, {whole}"
    if model.blank_infilling is not None:
        yield "length_ramp: samples with blanks can't be cut; leave it out for this model"


def _data_stages(run: RunConfig, degrees: Degrees) -> Iterator[str]:
    last = run.data.data_stages[-1].until if run.data.data_stages else None
    if last is not None and last < (tokens := plan_batches(run, degrees).train_tokens):
        yield (
            f"data_stages end at {last:,.0f} tokens, but the run takes {tokens:,}: leave out until "
            "of the last stage, which then goes on to the end"
        )


def _smaller_pipelines(stages: int, virtual: int, layers: int) -> str:
    if virtual == 1:
        return f"a degree of at most {layers}"
    ways = {
        (stages, layers // stages): stages <= layers,
        (layers // virtual, virtual): layers // virtual > 1,
    }
    fitting = [way for way, fits in ways.items() if fits] or [(layers, 1)]
    return " or ".join(f"{degree} × {virtual_degree}" for degree, virtual_degree in fitting)


def _sequence(run: RunConfig, degrees: Degrees) -> Iterator[str]:
    split = {
        "sep_parallel_degree": degrees.sep,
        "context_parallel_degree": degrees.context,
        "sequence_parallel over tensor_parallel_degree": (
            degrees.tensor if run.training.sequence_parallel else 1
        ),
    }
    ranks = math.prod(split.values())
    # Ring attention balances causal work by giving each rank two parts of the sequence.
    shares = 2 * degrees.context if degrees.context > 1 else 1
    parts = math.lcm(ranks, shares)
    reasons = " × ".join(f"{key} {degree}" for key, degree in split.items() if degree > 1)
    lengths = [("length_ramp:", length) for _, length in (run.training.length_ramp or ())[:-1]]
    for key, length in [("max_seq_length", run.data.max_seq_length), *lengths]:
        if length % parts:
            yield (
                f"{key} {length} cannot be cut into the {parts} equal parts of {reasons}; "
                f"possible near it: {either(nearest_multiples(length, parts))}"
            )


def _recompute(run: RunConfig, model: ModelConfig) -> Iterator[str]:
    beyond = [
        layer
        for layer in run.training.no_recompute_layers or ()
        if layer >= model.num_hidden_layers
    ]
    if beyond:
        yield (
            f"no_recompute_layers names {', '.join(map(str, beyond))}, but the model has layers "
            f"0 to {model.num_hidden_layers - 1}"
        )


# Of the arithmetic of a whole run.
_MOST_EVALUATION = 0.1


def layout_notices(run: RunConfig, model: ModelConfig, degrees: Degrees) -> list[str]:
    """One line for each."""
    return [
        *_model_notices(run, model),
        *_tensor_notices(model, degrees),
        *_layout_notices(run, degrees),
        *_idle_options(run.training, degrees),
        *_evaluation(run, degrees),
    ]


def _model_notices(run: RunConfig, model: ModelConfig) -> Iterator[str]:
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


def _tensor_notices(model: ModelConfig, degrees: Degrees) -> Iterator[str]:
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


def _layout_notices(run: RunConfig, degrees: Degrees) -> Iterator[str]:
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
