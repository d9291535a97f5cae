"""Numbers as the page writes them, and the ticks of an axis."""

from __future__ import annotations

import math
from typing import Any

from llm_pretrain.monitor.report.history import is_number

NOTHING = "–"


def whole(value: Any) -> str:
    """An integer with commas."""
    return f"{value:,.0f}" if is_number(value) else NOTHING


def decimal(value: Any) -> str:
    """A number with four or five digits."""
    if not is_number(value):
        return NOTHING
    return f"{value:,.4f}" if 0.1 <= abs(value) < 100 else short(value)


def share(value: Any) -> str:
    """A part of one, in per cent."""
    return f"{value:.1%}" if is_number(value) else NOTHING


def short(value: float) -> str:
    """As few characters as say it to four digits: "12.5k", "3.2M", "0.0001"."""
    size = abs(value)
    for power, unit in ((12, "T"), (9, "B"), (6, "M"), (3, "k")):
        if size >= 10**power:
            return f"{value / 10**power:.4g}{unit}"
    return "0" if value == 0 else f"{value:.4g}"


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers in steps of 1, 2, 2.5 or 5 times a power of ten, at most `most` of them."""
    span = high - low
    if not (math.isfinite(span) and span > 0):
        return [low]
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(
        power * factor
        for factor in (1, 2, 2.5, 5, 10, 20)
        if math.floor(high / (power * factor)) - math.ceil(low / (power * factor)) < most
    )
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]
