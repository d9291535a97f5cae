#!/usr/bin/env python3
"""Draws the losses of runs, each by what differs in the names of their folders.

PICTURE is .svg or .png; the same runs give the same file.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes

from llm_pretrain.monitor.metrics_log import read_metrics

CURVES = (("loss", "training loss", "-"), ("eval_loss", "evaluation loss", "o-"))


def main(arguments: Sequence[str]) -> int:
    usage = "draw_run.py OUTPUT_DIR [OUTPUT_DIR …] PICTURE [--title TITLE]"
    parser = argparse.ArgumentParser(
        usage=usage, description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("paths", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--title", help="of the picture; one run is named by its folder")
    given = parser.parse_args(arguments)
    paths = given.paths
    if len(paths) == 3 and is_picture(paths[1]) and not is_picture(paths[2]):
        given.title = paths.pop()  # OUTPUT_DIR PICTURE TITLE, the form of one run
    *runs, picture = paths
    if not runs or not is_picture(picture):
        parser.error(f"a folder and then a .svg or .png are needed, not {' '.join(paths)}")
    return draw_runs(runs, picture, given.title)


def is_picture(path: str) -> bool:
    return path.endswith((".svg", ".png"))


def draw_runs(runs: Sequence[str], picture: str, title: str | None) -> int:
    """Draw all curves into one picture; the exit status."""
    figure, axes = pyplot.subplots(figsize=(7.6, 3.4), layout="constrained")
    for number, (run, name) in enumerate(zip(runs, differing(runs), strict=True)):
        # Of one run the curves differ in colour, of several the runs do.
        colours = [f"C{number}", f"C{number}" if len(runs) > 1 else "C1"]
        if not Path(run).is_dir():
            print(f"error: {run} is no folder of a run", file=sys.stderr)
            return 1
        if not draw_run(axes, run, name if len(runs) > 1 else "", colours):
            print(f"error: {run}/train_log.jsonl holds no losses", file=sys.stderr)
            return 1
    if title is None:
        title = runs[0] if len(runs) == 1 else ""
    axes.set(xlabel="step", ylabel="loss", title=title)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    # Without a date and with fixed ids the same run gives the same file.
    matplotlib.rcParams["svg.hashsalt"] = "llm_pretrain"
    try:
        figure.savefig(picture, metadata={"Date": None} if picture.endswith(".svg") else None)
    except OSError as error:
        print(f"error: {picture}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def draw_run(axes: Axes, run: str, name: str, colours: Sequence[str]) -> bool:
    """Draw both losses of a run, as far as there are any; whether there are."""
    history = read_metrics(run)
    drawn = False
    for (key, loss, style), colour in zip(CURVES, colours, strict=True):
        lines = [line for line in history if line.get(key) is not None]
        if lines:
            steps = [line["global_step"] for line in lines]
            losses = [line[key] for line in lines]
            label = f"{name} {loss} {losses[-1]:.2f}".lstrip()
            axes.plot(steps, losses, style, label=label, markersize=4, color=colour)
            drawn = True
    return drawn


def differing(runs: Sequence[str]) -> list[str]:
    """The runs' names without the folders at either end that all of them share."""
    names = [list(Path(run).parts) for run in runs]
    for end in (0, -1):
        while all(names) and len({name[end] for name in names}) == 1:
            for name in names:
                del name[end]
    return ["/".join(name) or run for name, run in zip(names, runs, strict=True)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
