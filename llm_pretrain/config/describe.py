"""A configuration as lines for people: every value with its source, degrees, batch, schedule."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from llm_pretrain.config import keys
from llm_pretrain.config.degrees import ORDERS, Degrees, rank_groups
from llm_pretrain.config.parallel_options import OPTIONS
from llm_pretrain.config.run_config import RunConfig, plan_batches
from llm_pretrain.machine.language import translated
from llm_pretrain.machine.terminal import columns_of, ljust, wrap

_GROUPS_SHOWN = 8
_RANKS_SHOWN = 16
_LONGEST_VALUE = 300


def describe_config(run: RunConfig, *, columns: int, everything: bool = True) -> list[str]:
    """The values, each with where it came from, in lines of at most `columns`, in the reader's
    language.

    `everything`: all keys, in groups; otherwise those that are not left at their defaults.
    """
    texts = {
        key: _text(key, value) if everything else _cut(_text(key, value))
        for key, value in run.values().items()
        if everything or run.sources[key] != "default"
    }
    key_width = max(map(len, texts), default=0)
    groups = keys.groups() if everything else [("", list(texts))]
    lines = []
    for title, members in groups:
        indent = "  " if title else ""
        lines += wrap(translated(title), columns) if title else []
        rows = [(key, texts[key], f"[{translated(run.sources[key])}]") for key in members]
        source_width = max((columns_of(source) for *_, source in rows), default=0)
        room = columns - len(indent) - key_width - source_width - 3
        longest = max((columns_of(text) for _, text, _ in rows), default=0)
        text_width = max(0, min(room, longest))
        for key, text, source in rows:
            line = f"{indent}{key:<{key_width}} {ljust(text, text_width)}  {source}"
            lines += wrap(line, columns, key_width + 1)
    if not everything:
        others = len(run.sources) - len(texts)
        rest = f"and {others} keys left at their defaults, which --verbose shows"
        lines += wrap(translated(rest), columns)
    return lines


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"


def _text(key: str, value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if key in OPTIONS:
        value = " ".join(value)
    return json.dumps(value, ensure_ascii=False)


def describe_keys(columns: int) -> list[str]:
    """All keys that have an effect, in groups, with their defaults and meanings, in the reader's
    language."""
    lines = []
    for title, members in keys.groups():
        lines += ["", *wrap(translated(title), columns)]
        for key in members:
            field = keys.field(key)
            default = translated("required") if field.is_required() else _text(key, field.default)
            lines += wrap(f"  --{key} ({default})", columns, 4)
            lines += wrap(f"      {translated(field.description or '')}", columns, 0)
    return lines


def describe_degrees(degrees: Degrees) -> str:
    """The number of processes, and the degrees above 1 that it is the product of."""
    processes = "1 process" if degrees.world_size == 1 else f"{degrees.world_size} processes"
    axes = ("data", "sharding", "pipeline", "sep", "context", "tensor")
    sizes = [(axis, getattr(degrees, axis)) for axis in axes]
    product = " × ".join(f"{axis} {size}" for axis, size in sizes if size > 1)
    return f"{processes} = {product}" if product else processes


def describe_layout(run: RunConfig, degrees: Degrees) -> list[str]:
    """Virtual stages, and the ranks of every group."""
    order = run.training.hybrid_parallel_topo_order
    lines = []
    if degrees.virtual_pipeline > 1:
        lines.append(f"virtual stages: {degrees.virtual_pipeline} on each rank of a pipeline")
    groups = rank_groups(degrees, order)
    titles = {axis: axis for axis in ORDERS[order]}
    if degrees.context > 1:
        titles["sep"] = "context"
    if groups:
        lines.append(f"order of ranks, outermost first: {', '.join(titles.values())}")
    lines += [f"{titles[axis]} groups: {_ranks(members)}" for axis, members in groups.items()]
    return lines


def _ranks(groups: list[list[int]]) -> str:
    shown = [_ranks_of(group) for group in groups[:_GROUPS_SHOWN]]
    if len(groups) > _GROUPS_SHOWN:
        shown.append(f"… {len(groups)} in all")
    return " ".join(shown)


def _ranks_of(group: list[int]) -> str:
    if len(group) > _RANKS_SHOWN:
        return f"[{group[0]}, {group[1]}, … {group[-1]}]"
    return str(group)


def describe_batches(run: RunConfig, degrees: Degrees) -> list[str]:
    """Samples and tokens per step and in all."""
    training = run.training
    plan = plan_batches(run, degrees)
    factors = (
        f"{training.per_device_train_batch_size} per device × "
        f"{training.gradient_accumulation_steps} micro-steps × {degrees.dataset} data ranks"
    )
    ramps = [(begin, f"{many:,} samples per step") for begin, many in training.batch_ramp or ()]
    lengths = training.length_ramp or ()
    ramps += [(begin, f"sequences of {length:,} tokens") for begin, length in lengths]
    lines = [
        f"{factors} = {plan.samples_per_step:,} samples = {plan.tokens_per_step:,} tokens per step",
        *(
            f"from {begin:,.0f} tokens on: {what}"
            + (", which the run does not reach" if begin >= plan.train_tokens else "")
            for begin, what in ramps
        ),
        f"{training.max_steps:,} steps: {plan.train_samples:,} samples, "
        f"{plan.train_tokens:,} tokens in total",
    ]
    if plan.valid_samples:
        named = run.data.eval_data
        of_each = f" of each of {', '.join(named)}" if named else ""
        lines.append(f"evaluation: {plan.valid_samples:,} samples{of_each} each time")
    if plan.test_samples:
        lines.append(f"test: {plan.test_samples:,} samples at the end")
    return lines


def describe_schedule(run: RunConfig) -> str:
    """The learning rate's plan in a line."""
    return ", ".join(_schedule(run))


def _schedule(run: RunConfig) -> Iterator[str]:
    training = run.training
    if training.warmup:
        yield f"0 up to {training.learning_rate:g} over {training.warmup:g} steps"
    else:
        yield f"from {training.learning_rate:g}"
    kind, lowest, end = training.lr_scheduler_type, training.min_learning_rate, training.decay_end
    if kind == "constant":
        yield f"constant until step {training.max_steps}"
        return
    if kind == "inverse_sqrt":
        yield f"with the root of the step until step {training.max_steps}, not below {lowest:g}"
        return
    shape: str = kind
    if kind == "cosine_with_restarts":
        shape = f"cosine, {training.num_cycles:g} times,"
    elif kind == "warmup_stable_decay":
        yield f"constant until step {training.decay_begin:g}"
        shape = training.decay_type
    yield f"{shape} down to {lowest:g} at step {end}"
    if end < training.max_steps:
        yield f"then constant until step {training.max_steps}"
