"""Curves over steps or tokens as inline SVG, with marks that tell more under the pointer.

The SVG is stretched to its place, lines keeping their width, and what is written stands beside it
as text: it has the same size on a telephone and on a wide screen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import accumulate, groupby

from llm_pretrain.monitor.report.history import Point
from llm_pretrain.monitor.report.numbers import short, ticks

_WIDTH, _HEIGHT = 1000, 400
MOST_POINTS = 1200
"""Of all curves of a chart together."""
MOST_MARKS = 150
_USUAL = ("evaluation", "save", "sample")
"""Marks of what goes as it should, which make room for the others."""
_SMOOTH_PARTS = 40
"""Of a curve's points, a smoothed value takes in one part before it and one after it."""


@dataclass(frozen=True)
class Curve:
    """A line of a chart.

    Args:
        colour: number of the colour.
        style: "raw", "smooth", "dots" or "planned", as page.css has them.
    """

    label: str
    points: Sequence[Point]
    colour: int = 0
    style: str = "smooth"


@dataclass(frozen=True)
class Mark:
    """Something that happened at `x`; its text is shown under the pointer.

    Args:
        y: None for what has no value, at the bottom of the chart.
        kind: "evaluation", "save", "spike", "not_finite", "restart" or "rewind".
    """

    x: float
    y: float | None
    kind: str
    text: str
    colour: int = 0


@dataclass(frozen=True)
class Chart:
    title: str
    curves: Sequence[Curve]
    marks: Sequence[Mark] = field(default=())
    above: str = "{count}"
    """Says how many points lie above the chart."""
    marks_left_out: str = "{count}"
    from_zero: bool = False

    def draw(self) -> str:
        """The chart as HTML; "" where there is nothing to draw."""
        points = [point for curve in self.curves for point in curve.points]
        values = sorted(y for _, y in points if math.isfinite(y))
        if not values:
            return ""
        x_axis = _Axis.of([x for x, _ in points])
        y_axis, above = self._y_axis(values)
        room = MOST_POINTS // len(self.curves)
        lines = [
            line for curve in self.curves for line in _lines(curve, x_axis, y_axis, max(room, 40))
        ]
        marks = thinned_marks(self.marks)
        notes = []
        if above:
            notes.append(self.above.format(count=above))
        if len(marks) < len(self.marks):
            notes.append(self.marks_left_out.format(count=len(self.marks) - len(marks)))
        note = f'<p class="note">{escape("; ".join(notes))}</p>' if notes else ""
        grid = "".join(
            f"M0 {_HEIGHT * (1 - y_axis.share(y)):.1f}H{_WIDTH}" for y in ticks(*y_axis.ends)
        )
        return (
            f'<figure class="chart"><figcaption>{escape(self.title)}{self._legend()}</figcaption>'
            f'<div class="plot" data-x="{x_axis.low:.8g},{x_axis.high:.8g}" '
            f'data-y="{y_axis.low:.8g},{y_axis.high:.8g}">'
            f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" role="img" '
            f'aria-label="{escape(self.title)}"><path class="grid" d="{grid}"/>'
            f"{''.join(lines)}</svg>{_labels(x_axis, y_axis)}"
            f"{''.join(_mark(mark, x_axis, y_axis) for mark in marks)}</div>{note}</figure>"
        )

    def _legend(self) -> str:
        entries = "".join(
            f'<span class="key c{curve.colour} {curve.style}">{escape(curve.label)}</span>'
            for curve in self.curves
            if curve.label and curve.points
        )
        return f'<span class="legend">{entries}</span>' if entries else ""

    def _y_axis(self, values: Sequence[float]) -> tuple[_Axis, int]:
        """The axis, and how many points lie above it: a spike does not flatten the rest."""
        low, high = values[0], values[-1]
        usual = values[int(0.98 * (len(values) - 1))]
        if len(values) >= 50 and high - low > 4 * (usual - low) > 0:
            high = low + 1.5 * (usual - low)
        above = sum(value > high for value in values)
        axis = _Axis.of([0.0 if self.from_zero else low, high])
        room = 0.06 * (axis.high - axis.low)
        return _Axis(
            0.0 if self.from_zero and low >= 0 else axis.low - room, axis.high + room
        ), above


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> _Axis:
        """From the least to the largest; of one value alone, with room on both sides."""
        low, high = min(values), max(values)
        if high > low:
            return cls(low, high)
        room = abs(low) / 2 or 0.5
        return cls(low - room, high + room)

    @property
    def ends(self) -> tuple[float, float]:
        return self.low, self.high

    def share(self, value: float) -> float:
        """Where on the axis a value lies, from 0 to 1; beyond its ends, at them."""
        return min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)


def smoothed(points: Sequence[Point]) -> list[Point]:
    """The mean of each point with as many before as after it; towards the ends there are fewer, so
    that the curve lags behind nowhere. What is not finite is left out."""
    finite = [point for point in points if math.isfinite(point[1])]
    reach = len(finite) // _SMOOTH_PARTS
    sums = [0.0, *accumulate(y for _, y in finite)]
    result = []
    for number, (x, _) in enumerate(finite):
        near = min(reach, number, len(finite) - 1 - number)
        first, end = number - near, number + near + 1
        result.append((x, (sums[end] - sums[first]) / (end - first)))
    return result


def thinned(points: Sequence[Point], most: int) -> list[Point]:
    """At most about `most` points: of each stretch the lowest and the highest, as drawn they look
    the same. What is not finite stays a gap."""
    if len(points) <= most:
        return list(points)
    length = math.ceil(2 * len(points) / most)
    kept: list[Point] = []
    for begin in range(0, len(points), length):
        stretch = points[begin : begin + length]
        finite = [point for point in stretch if math.isfinite(point[1])]
        if finite:
            ends = {
                min(finite, key=lambda point: point[1]),
                max(finite, key=lambda point: point[1]),
            }
            kept += sorted(ends)
        else:
            kept.append(stretch[0])
    # A curve ends where the run does.
    return kept if kept[-1] == points[-1] else [*kept, points[-1]]


def thinned_marks(marks: Sequence[Mark]) -> list[Mark]:
    """At most `MOST_MARKS`: what went wrong first, then the rest at even distances."""
    if len(marks) <= MOST_MARKS:
        return list(marks)
    usual = [mark for mark in marks if mark.kind in _USUAL]
    rare = [mark for mark in marks if mark.kind not in _USUAL]
    rare = rare[:: math.ceil(len(rare) / (MOST_MARKS // 2)) or 1]
    room = MOST_MARKS - len(rare)
    return [*usual[:: math.ceil(len(usual) / room)], *rare]


def _lines(curve: Curve, x_axis: _Axis, y_axis: _Axis, most: int) -> list[str]:
    points = thinned(curve.points, most)
    lines = []
    for is_finite, group in groupby(points, key=lambda point: math.isfinite(point[1])):
        stretch = list(group)
        if not is_finite:
            continue
        if len(stretch) == 1:
            stretch *= 2  # a line without length is drawn as its round end
        places = " ".join(
            f"{_WIDTH * x_axis.share(x):.1f},{_HEIGHT * (1 - y_axis.share(y)):.1f}"
            for x, y in stretch
        )
        lines.append(
            f'<polyline class="c{curve.colour} {curve.style}" '
            f'data-label="{escape(curve.label)}" points="{places}"/>'
        )
    return lines


def _labels(x_axis: _Axis, y_axis: _Axis) -> str:
    across = (
        f'<span class="x" style="left:{100 * x_axis.share(x):.2f}%">{short(x)}</span>'
        for x in ticks(*x_axis.ends)
    )
    up = (
        f'<span class="y" style="top:{100 * (1 - y_axis.share(y)):.2f}%">{short(y)}</span>'
        for y in ticks(*y_axis.ends)
    )
    return "".join((*across, *up))


def _mark(mark: Mark, x_axis: _Axis, y_axis: _Axis) -> str:
    top = 100.0 if mark.y is None or not math.isfinite(mark.y) else 100 * (1 - y_axis.share(mark.y))
    text = escape(mark.text)
    return (
        f'<button type="button" class="mark {mark.kind} c{mark.colour}" data-tip="{text}" '
        f'aria-label="{text}" style="left:{100 * x_axis.share(mark.x):.2f}%;top:{top:.2f}%">'
        "</button>"
    )
