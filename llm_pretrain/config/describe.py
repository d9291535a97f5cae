"""A configuration as lines for people: every value with its source, degrees, batch, schedule."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from typing import Any

from llm_pretrain.config import keys
from llm_pretrain.config.batch_plan import plan_batches
from llm_pretrain.config.degrees import Degrees
from llm_pretrain.config.parallel_options import OPTIONS
from llm_pretrain.config.rank_groups import ORDERS, rank_groups
from llm_pretrain.config.run_config import RunConfig

_GROUPS_SHOWN = 8
_RANKS_SHOWN = 16


def describe_config(run: RunConfig) -> list[str]:
    """All values, in groups, each with where it came from."""
    values = {
        key: value
        for part in (run.model, run.data, run.training)
        for key, value in part.model_dump().items()
    }
    texts = {key: _text(key, value) for key, value in values.items()}
    key_width = max(map(len, texts))
    lines = []
    for title, members in keys.groups():
        lines.append(title)
        width = max(len(texts[key]) for key in members)
        lines += [
            f"  {key:<{key_width}} {texts[key]:<{min(width, 40)}}  [{run.sources[key]}]"
            for key in members
        ]
    return lines


def _text(key: str, value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if key in OPTIONS:
        value = " ".join(value)
    return json.dumps(value, ensure_ascii=False)


def describe_keys() -> list[str]:
    """All keys that have an effect, in groups, with their defaults and meanings."""
    lines = []
    for title, members in keys.groups():
        lines += ["", title]
        for key in members:
            field = keys.field(key)
            default = "required" if field.is_required() else _text(key, field.default)
            lines.append(f"  --{key} ({default})")
            lines.append(
                textwrap.fill(
                    field.description or "", 94, initial_indent=" " * 6, subsequent_indent=" " * 6
                )
            )
    return lines


def describe_layout(run: RunConfig, degrees: Degrees) -> list[str]:
    """Degrees, and the ranks of every group."""
    order = run.training.hybrid_parallel_topo_order
    product = " × ".join(
        f"{axis} {size}"
        for axis, size in (
            ("data", degrees.data),
            ("sharding", degrees.sharding),
            ("pipeline", degrees.pipeline),
            ("sep", degrees.sep),
            ("context", degrees.context),
            ("tensor", degrees.tensor),
        )
    )
    lines = [f"{product} = {degrees.world_size} processes"]
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
    lines = [
        f"{factors} = {plan.samples_per_step:,} samples = {plan.tokens_per_step:,} tokens per step",
        f"{training.max_steps:,} steps: {plan.train_samples:,} samples, "
        f"{plan.train_tokens:,} tokens in total",
    ]
    if plan.valid_samples:
        lines.append(f"evaluation: {plan.valid_samples:,} samples each time")
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
    yield (
        f"{training.lr_scheduler_type} down to {training.min_learning_rate:g} at step "
        f"{training.decay_steps}"
    )
    if training.decay_steps is not None and training.decay_steps < training.max_steps:
        yield f"then constant until step {training.max_steps}"
