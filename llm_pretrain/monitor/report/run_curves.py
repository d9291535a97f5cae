"""The curves of runs: which metrics of the log are drawn, over what, and with which marks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llm_pretrain.monitor.metrics_log import named_sets
from llm_pretrain.monitor.report.curves import Chart, Curve, Mark, smoothed
from llm_pretrain.monitor.report.history import History, Point, is_number
from llm_pretrain.monitor.report.numbers import decimal, short, whole
from llm_pretrain.monitor.report.words import Words

_COLOURS = 8
"""That page.css has."""
_LONGEST_TEXT = 300
_PLANNED = {
    "interval_tokens_per_second_per_device": "planned_tokens_per_second_per_device",
    "max_memory_allocated": "planned_max_memory_allocated",
}
_OTHERS = (
    ("global_norm", "norm", True),
    ("learning_rate", "rate", True),
    ("interval_tokens_per_second_per_device", "speed", True),
    ("max_memory_allocated", "memory", True),
    ("mfu", "mfu", True),
    ("data_wait_share", "waiting for data", True),
)
"""(metric, title, whether the chart begins at zero)."""


def charts(histories: Sequence[History], words: Words) -> list[str]:
    """The charts as HTML, the losses first; a metric that no run has is left out."""
    places = _Places(histories)
    several = len(histories) > 1
    drawn = [_loss_chart(histories, places, words, several)]
    for metric, title, from_zero in _OTHERS:
        curves = []
        for number, history in enumerate(histories):
            name = history.name if several else ""
            points = places.move(history, history.series(metric))
            curves.append(Curve(name, points, number, "smooth"))
            planned = history.summary.get(_PLANNED.get(metric, ""))
            if points and is_number(planned):
                level = [(points[0][0], planned), (points[-1][0], planned)]
                label = f"{name} {words('planned')} {whole(planned)}".strip()
                curves.append(Curve(label, level, number, "planned"))
        drawn.append(_chart(words(title), curves, (), words, from_zero))
    return [chart for chart in drawn if chart]


class _Places:
    """Where on the abscissa a line stands: at its tokens where all runs know them, else at its
    step."""

    def __init__(self, histories: Sequence[History]) -> None:
        self.are_tokens = all(
            history.tokens_at(line) is not None for history in histories for line in history.steps
        ) and any(history.steps for history in histories)
        self._tokens = {
            id(history): {line["global_step"]: history.tokens_at(line) for line in history.steps}
            for history in histories
        }

    def at(self, history: History, step: int) -> float:
        """What is not of a logged step stands where the share of the last logged one puts it."""
        if not self.are_tokens:
            return step
        known = self._tokens[id(history)]
        exact = known.get(step)
        if exact is not None:
            return exact
        before = [other for other in known if 0 < other <= step] or [o for o in known if o > 0]
        if not before:
            return 0.0
        near = max(before) if max(before) <= step else min(before)
        return step * (known[near] or 0.0) / near

    def move(self, history: History, points: Sequence[Point]) -> list[Point]:
        return [(self.at(history, int(step)), value) for step, value in points]


def _loss_chart(histories: Sequence[History], places: _Places, words: Words, several: bool) -> str:
    curves, marks = [], []
    for number, history in enumerate(histories):
        prefix = f"{history.name}: " if several else ""
        losses = places.move(history, history.series("loss"))
        raw, smooth, evaluation = (
            f"{prefix}{words(name)}" for name in ("raw", "smoothed", "evaluation loss")
        )
        evaluations = places.move(history, history.series("eval_loss", history.evaluations))
        # Of several runs the smoothed curves name the runs; the others would fill the legend.
        curves += [
            Curve("" if several else raw, losses, number, "raw"),
            Curve(history.name if several else smooth, smoothed(losses), number, "smooth"),
            Curve("" if several else evaluation, evaluations, number, "dots"),
        ]
        for place, name in enumerate(history.validation_sets, 1):
            of_set = history.series(f"eval_{name}_loss", history.evaluations)
            colour = (number + place) % _COLOURS
            curves.append(Curve(f"{prefix}{name}", places.move(history, of_set), colour, "dots"))
        marks += _marks(history, number, prefix, places, words)
    title = words("loss curve" if places.are_tokens else "loss curve of steps")
    return _chart(title, curves, marks, words, from_zero=False)


def _chart(
    title: str, curves: Sequence[Curve], marks: Sequence[Mark], words: Words, from_zero: bool
) -> str:
    drawn = [curve for curve in curves if curve.points]
    above, left_out = words("above"), words("marks left out")
    return Chart(title, drawn, marks, above, left_out, from_zero).draw()


def _marks(history: History, colour: int, prefix: str, places: _Places, words: Words) -> list[Mark]:
    losses = dict(history.series("loss"))
    marks = []

    def add(line: Mapping[str, Any], kind: str, y: float | None, text: str) -> None:
        step = line["global_step"]
        at = f"{prefix}{words(kind)}, {words('step')} {step}: {text}"[:_LONGEST_TEXT]
        marks.append(Mark(places.at(history, step), y, kind, at, colour))

    for line in history.evaluations:
        loss, perplexity = line.get("eval_loss"), line.get("eval_ppl")
        if is_number(loss):
            text = f"{words('loss')} {decimal(loss)}, {words('perplexity')} {decimal(perplexity)}"
            for name in named_sets(line):
                own, its_perplexity = line[f"eval_{name}_loss"], line.get(f"eval_{name}_ppl")
                text += f"; {name} {decimal(own)} ({decimal(its_perplexity)})"
            add(line, "evaluation", loss, text)
    for line in history.of_kind("save"):
        size, seconds = line.get("bytes"), line.get("seconds")
        took = ""
        if is_number(size) and is_number(seconds):
            took = f", {short(size)}B, {seconds:.1f} s"
        add(line, "save", None, f"{line.get('checkpoint', '')}{took}")
    texts: dict[int, list[str]] = {}
    for line in history.of_kind("sample"):
        told_of_step = texts.setdefault(line["global_step"], [])
        told_of_step.append(f"{line.get('prompt')}|{line.get('text')}")
    for step, told_of_step in texts.items():
        add({"global_step": step}, "sample", losses.get(step), "; ".join(told_of_step))
    for line in history.of_kind("event"):
        kind = line.get("event")
        if kind != "end":
            known_kind = kind if kind in ("spike", "not_finite", "restart", "rewind") else "event"
            y = losses.get(line["global_step"])
            add(line, known_kind, y, str(line.get("message", kind)))
    told = {line["global_step"] for line in history.of_kind("event")}
    for line in history.steps:
        wrong = line.get("not_finite")
        if isinstance(wrong, dict) and line["global_step"] not in told:
            add(line, "not_finite", None, ", ".join(f"{name} {is_}" for name, is_ in wrong.items()))
    return marks
