"""What the model and the degrees demand of each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from llm_pretrain.config.degrees import Degrees
from llm_pretrain.config.run_config import RunConfig

if TYPE_CHECKING:
    from llm_pretrain.config.model_config import ModelConfig


def check_layout(run: RunConfig, model: ModelConfig, degrees: Degrees) -> list[str]:
    """Every reason why this model cannot be trained with these degrees; [] if it can."""
    return [
        *_tensor(model, degrees),
        *_pipeline(run, model, degrees),
        *_sequence(run, model, degrees),
        *_recompute(run, model),
    ]


def layout_notices(run: RunConfig, model: ModelConfig, degrees: Degrees) -> list[str]:
    """What is in order but may surprise."""
    notices = []
    length = run.data.max_seq_length
    if length > model.max_position_embeddings:
        notices.append(
            f"max_seq_length: {length} is longer than the {model.max_position_embeddings} "
            "positions that the model was made for"
        )
    if run.training.sharding and degrees.sharding == 1:
        notices.append(f"sharding: {run.training.sharding} over one process changes nothing")
    steps = run.training.gradient_accumulation_steps
    if steps < degrees.pipeline:
        notices.append(
            f"gradient_accumulation_steps: {steps} micro-batches cannot keep {degrees.pipeline} "
            "pipeline stages busy; the more of them, the less each stage waits"
        )
    wanted = run.model.vocab_size
    if wanted is not None and wanted != model.vocab_size:
        notices.append(
            f"vocab_size: {wanted} is too small for the tokenizer; the model has {model.vocab_size}"
        )
    if run.training.warmup > run.training.max_steps > 0:
        notices.append(
            f"warmup_steps: {run.training.warmup:g} is more than max_steps, so learning_rate is "
            "never reached"
        )
    for key, value in (
        ("hidden_dropout_prob", model.hidden_dropout),
        ("attention_probs_dropout_prob", model.attention_dropout),
    ):
        if run.sources[key] != "default" and getattr(run.model, key) != value:
            notices.append(f"{key}: no effect: the model's config has no such dropout")
    return notices


def _indivisible(key: str, degree: int, what: str, size: int) -> Iterator[str]:
    if size % degree:
        yield f"{key} {degree} does not divide the model's {what}, {size}"


def _tensor(model: ModelConfig, degrees: Degrees) -> Iterator[str]:
    key = "tensor_parallel_degree"
    yield from _indivisible(key, degrees.tensor, "attention heads", model.num_attention_heads)
    yield from _indivisible(key, degrees.tensor, "key–value heads", model.num_key_value_heads)
    yield from _indivisible(key, degrees.tensor, "feed-forward width", model.intermediate_size)
    yield from _indivisible(key, degrees.tensor, "vocabulary", model.vocab_size)
    if model.num_attention_heads % model.num_key_value_heads:
        yield (
            f"num_attention_heads {model.num_attention_heads} is no multiple of the model's "
            f"key–value heads, {model.num_key_value_heads}"
        )


def _pipeline(run: RunConfig, model: ModelConfig, degrees: Degrees) -> Iterator[str]:
    virtual = degrees.virtual_pipeline
    if degrees.pipeline * virtual > model.num_hidden_layers:
        times = f" × virtual_pp_degree {virtual}" if virtual > 1 else ""
        yield (
            f"pipeline_parallel_degree {degrees.pipeline}{times} is more than the model's "
            f"layers, {model.num_hidden_layers}: every stage needs one"
        )
    steps = run.training.gradient_accumulation_steps
    if degrees.virtual_pipeline > 1 and steps % degrees.pipeline:
        yield (
            f"gradient_accumulation_steps {steps} is no multiple of pipeline_parallel_degree "
            f"{degrees.pipeline}, which virtual stages need"
        )


def _sequence(run: RunConfig, model: ModelConfig, degrees: Degrees) -> Iterator[str]:
    length = run.data.max_seq_length
    if degrees.sep > 1:
        yield from _indivisible(
            "sep_parallel_degree", degrees.sep, "attention heads", model.num_attention_heads
        )
    splits = {
        "sep_parallel_degree": degrees.sep,
        # Ring attention balances causal work by giving each process two pieces of the sequence.
        "context_parallel_degree": 2 * degrees.context if degrees.context > 1 else 1,
        "tensor_parallel_degree": degrees.tensor if run.training.sequence_parallel else 1,
    }
    for key, parts in splits.items():
        if length % parts:
            yield f"max_seq_length {length} cannot be cut into the {parts} parts of {key}"


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
