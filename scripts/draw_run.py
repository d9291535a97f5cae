#!/usr/bin/env python3
"""Draws the losses of a run as an SVG: draw_run.py OUTPUT_DIR PICTURE.svg [TITLE]."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from llm_pretrain.monitor.metrics_log import read_metrics

WIDTH, HEIGHT = 760, 340
LEFT, RIGHT, TOP, BOTTOM = 56, 20, 44, 40
STYLE = """
text { font: 13px sans-serif; fill: #444 } .title { font-size: 15px; fill: #111 }
.grid { stroke: #ddd } .training { stroke: #4c78a8; stroke-width: 1.6; fill: none }
.evaluation { stroke: #e45756; stroke-width: 1.6; fill: none } .dot { fill: #e45756 }
"""

Point = tuple[float, float]


def points(history: Sequence[dict], name: str) -> list[Point]:
    """(step, value) of the lines that hold a finite value."""
    return [(line["global_step"], line[name]) for line in history if line.get(name) is not None]


def draw(training: Sequence[Point], evaluation: Sequence[Point], title: str) -> str:
    steps = [step for step, _ in (*training, *evaluation)]
    losses = [loss for _, loss in (*training, *evaluation)]
    low, high = int(min(losses)), int(max(losses)) + 1
    last = max(steps)

    def place(point: Point) -> Point:
        x = LEFT + point[0] / last * (WIDTH - LEFT - RIGHT)
        y = TOP + (high - point[1]) / (high - low) * (HEIGHT - TOP - BOTTOM)
        return round(x, 1), round(y, 1)

    parts = [f'<text class="title" x="{LEFT}" y="24">{escape(title)}</text>']
    for loss in range(low, high + 1):
        x, y = place((0, loss))
        parts.append(f'<line class="grid" x1="{x}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{x - 10}" y="{y + 4}" text-anchor="end">{loss}</text>')
    for share in (0.25, 0.5, 0.75, 1.0):
        x, y = place((share * last, low))
        label = f"{share * last:.0f}" + (" steps" if share == 1.0 else "")
        parts.append(f'<text x="{x}" y="{y + 22}" text-anchor="end">{label}</text>')
    for kind, line in (("training", training), ("evaluation", evaluation)):
        path = " ".join("{},{}".format(*place(point)) for point in line)
        parts.append(f'<polyline class="{kind}" points="{path}"/>')
    for point in evaluation:
        x, y = place(point)
        parts.append(f'<circle class="dot" cx="{x}" cy="{y}" r="3.5"/>')
    if training:
        x, y = place(training[len(training) // 8])
        parts.append(f'<text x="{x + 12}" y="{y - 8}">training loss {training[-1][1]:.2f}</text>')
    if evaluation:
        x, y = place(evaluation[len(evaluation) // 2])
        parts.append(f'<text x="{x}" y="{y - 14}">evaluation loss {evaluation[-1][1]:.2f}</text>')
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}">\n'
        f'<style>{STYLE}</style>\n<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>\n'
        f"{body}\n</svg>\n"
    )


def main(arguments: Sequence[str]) -> int:
    if len(arguments) not in (2, 3):
        print(__doc__, file=sys.stderr)
        return 2
    history = read_metrics(arguments[0])
    training, evaluation = points(history, "loss"), points(history, "eval_loss")
    if not training and not evaluation:
        print(f"error: {arguments[0]}/train_log.jsonl holds no losses", file=sys.stderr)
        return 1
    title = arguments[2] if len(arguments) == 3 else arguments[0]
    Path(arguments[1]).write_text(draw(training, evaluation, title), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
