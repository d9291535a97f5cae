"""Plans as text for a terminal, and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from llm_pretrain.machine.language import translated
from llm_pretrain.machine.terminal import columns_of, ljust, rjust
from llm_pretrain.monitor.reporter import readable_size
from llm_pretrain.planning.machines import NUMBERS, TABLES, Machine
from llm_pretrain.planning.plan import Plan
from llm_pretrain.planning.profile import total

GIB = 2.0**30
TIME_PARTS: dict[str, str] = {
    "products": "products of matrices",
    "attention": "attention operators",
    "memory": "memory-bound operators",
    "tensor": "messages, tensor parallel",
    "sequence": "messages, split sequences",
    "pipeline": "messages, ends of the pipeline",
    "sharding": "messages, sharding",
    "data": "messages, data parallel",
    "replica": "messages, replicas",
    "world": "messages, all ranks",
    "bubble": "pipeline bubble",
    "input": "data to the device",
    "saves": "saves",
}
"""What each part of a step's time is, in the order in which they are shown."""
MEMORY_PARTS: dict[str, str] = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "masters and moments",
    "activations": "activations",
    "logits": "logits",
    "communication": "communication buffers",
    "other": "within operators",
    "fragments": "fragments",
    "context": "context of the device",
    "group buffers": "buffers of the groups",
}
_LEAST_SHOWN = 0.0005
_HEADS = "tokens/s/device  MFU  time  device-hours  GiB of a device"
_WIDTHS = (19, 8, 12, 15, 18)


def table(plans: Sequence[Plan]) -> list[str]:
    """Two lines for each plan, its layout and its figures, under a title; in the reader's
    language, as `details` are."""
    lines = [_row(translated(_HEADS).split("  "))]
    for number, plan in enumerate(plans, 1):
        lines.append(f"{number}  {translated(plan.layout.describe())}")
        figures = (
            f"{plan.tokens_per_second_per_device:,.0f}",
            f"{plan.mfu:.1%}",
            translated(readable_time(plan.run_seconds)),
            few_digits(plan.device_hours),
            f"{total(plan.memory) / GIB:,.1f}",
        )
        lines.append(_row(figures))
    return lines


def _row(cells: Iterable[str]) -> str:
    return "".join(map(rjust, cells, _WIDTHS))


def details(plan: Plan, machine: Machine, columns: int) -> Iterator[str]:
    """Memory and time of a plan, part by part, each with a bar; in the reader's language."""
    size = total(plan.memory)
    stage = f", stage {plan.fullest_stage}" if plan.layout.pipeline > 1 else ""
    yield translated(
        f"memory of the fullest rank{stage}: {size / GIB:,.1f} of {machine.memory / GIB:,.1f} GiB; "
        f"Paddle allocates {plan.allocated / GIB:,.1f} (max_memory_allocated) and reserves "
        f"{plan.reserved / GIB:,.1f} (max_memory_reserved)"
    )
    yield from bars(plan.memory, MEMORY_PARTS, GIB, "GiB", columns, of=machine.memory)
    yield translated(f"time of a step: {readable_seconds(plan.step.total)}")
    yield from bars(plan.step.seconds, TIME_PARTS, 1.0, "s", columns, of=plan.step.total)
    every = "" if not plan.save_seconds else f", for which training waits {_short(plan)}"
    size_on_disk = readable_size(round(plan.checkpoint_bytes))
    yield translated(f"a checkpoint takes {size_on_disk} of the disk{every}")


def _short(plan: Plan) -> str:
    return readable_seconds(plan.save_seconds)


def bars(
    parts: Mapping[str, float],
    titles: Mapping[str, str],
    unit: float,
    unit_name: str,
    columns: int,
    *,
    of: float,
) -> Iterator[str]:
    """A line for each part that is there: what it is, how much, a bar of its share of `of`."""
    shown = {part: translated(title) for part, title in titles.items()}
    width = max(map(columns_of, shown.values()))
    room = columns - width - 2 - 9 - len(unit_name) - 3
    for part, title in shown.items():
        value = parts.get(part, 0.0)
        if of <= 0 or value / of < _LEAST_SHOWN:
            continue
        bar = "█" * max(0, min(room, round(value / of * room)))
        number = value / unit
        text = f"{number:8,.2f}" if number >= 0.01 else f"{number:8.4f}"
        yield f"  {ljust(title, width)}{text} {unit_name}  {bar or '▏'}"


def readable_seconds(seconds: float) -> str:
    """`8.73 s`, `12.5 ms`."""
    return f"{seconds:,.2f} s" if seconds >= 1 else f"{seconds * 1e3:,.3g} ms"


def readable_time(seconds: float) -> str:
    """Of a run: `12.4 days`, `3.1 hours`, `5.0 minutes`, `8.73 s`."""
    for form, size in (("{:,.1f} days", 86400), ("{:,.1f} hours", 3600), ("{:,.1f} minutes", 60)):
        if seconds >= size:
            return form.format(seconds / size)
    return readable_seconds(seconds)


def few_digits(number: float) -> str:
    """`13,107`, `4.2`, `0.037`."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.2g}"


def numbers(machine: Machine) -> Iterator[str]:
    """The numbers of a machine that a plan rests on, each with its source."""
    for dtype, peak in machine.peaks.items():
        source = machine.sources.get(f"peaks {dtype}", machine.sources.get("peaks", ""))
        yield f"peak in {dtype}, {peak:.4g} FLOP/s: {source}"
    for key in (*NUMBERS, *TABLES):
        value = getattr(machine, key)
        text = (
            ", ".join(f"{share:.3g} at {size:.3g}" for size, share in value)
            if (key in TABLES)
            else f"{value:.4g}"
        )
        yield f"{key} {text}: {machine.sources[key]}"


def why(own: Plan, plans: Sequence[Plan], machine: Machine) -> str:
    """Why a configuration's own layout is among the best, or is not."""
    name = f"yours, {own.layout.describe()},"
    for number, plan in enumerate(plans, 1):
        if plan.layout == own.layout:
            return f"{name} is number {number}"
    over = total(own.memory) - machine.memory
    if over > 0:
        part, size = max(own.memory.items(), key=lambda item: item[1])
        return (
            f"{name} doesn't fit: its fullest rank needs {total(own.memory) / GIB:,.1f} GiB of the "
            f"{machine.memory / GIB:,.1f} there are, {over / GIB:,.1f} too many; its "
            f"{MEMORY_PARTS.get(part, part)} alone are {size / GIB:,.1f}"
        )
    if not plans:
        return f"{name} fits"
    best = plans[0]
    slower = 1.0 - own.tokens_per_second_per_device / best.tokens_per_second_per_device
    more = {
        part: own.step.seconds.get(part, 0.0) - best.step.seconds.get(part, 0.0)
        for part in TIME_PARTS
    }
    part = max(more, key=lambda each: more[each])
    return (
        f"{name} fits, with {own.tokens_per_second_per_device:,.0f} tokens/s/device, "
        f"{slower:.1%} slower than the first: {TIME_PARTS[part]} "
        f"{readable_seconds(more[part])} a step more"
    )


def as_json(plan: Plan) -> dict[str, Any]:
    """A plan for programs; bytes, seconds."""
    return {
        "layout": plan.layout.describe(),
        "keys": plan.layout.keys(),
        "tokens_per_second_per_device": plan.tokens_per_second_per_device,
        "mfu": plan.mfu,
        "days": plan.days,
        "device_hours": plan.device_hours,
        "max_memory_allocated_mib": plan.allocated / 2**20,
        "max_memory_reserved_mib": plan.reserved / 2**20,
        "memory_bytes": total(plan.memory),
        "memory_by_part": dict(plan.memory),
        "fullest_stage": plan.fullest_stage,
        "step_seconds": plan.step.total,
        "time_by_part": dict(plan.step.seconds),
        "checkpoint_bytes": plan.checkpoint_bytes,
        "save_seconds": plan.save_seconds,
    }
