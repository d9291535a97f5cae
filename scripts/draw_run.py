#!/usr/bin/env python3
"""Draws the losses of a run: draw_run.py OUTPUT_DIR PICTURE [TITLE]; PICTURE is .svg or .png."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from llm_pretrain.monitor.metrics_log import read_metrics


def main(arguments: Sequence[str]) -> int:
    if len(arguments) not in (2, 3):
        print(__doc__, file=sys.stderr)
        return 2
    output_dir, picture, *title = arguments
    history = read_metrics(output_dir)
    figure, axes = pyplot.subplots(figsize=(7.6, 3.4), layout="constrained")
    for name, label, style in (
        ("loss", "training loss", "-"),
        ("eval_loss", "evaluation loss", "o-"),
    ):
        lines = [line for line in history if line.get(name) is not None]
        if lines:
            steps = [line["global_step"] for line in lines]
            losses = [line[name] for line in lines]
            axes.plot(steps, losses, style, label=f"{label} {losses[-1]:.2f}", markersize=4)
    if not axes.lines:
        print(f"error: {output_dir}/train_log.jsonl holds no losses", file=sys.stderr)
        return 1
    axes.set(xlabel="step", ylabel="loss", title=title[0] if title else output_dir)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    # Without a date and with fixed ids the same run gives the same file.
    matplotlib.rcParams["svg.hashsalt"] = "llm_pretrain"
    figure.savefig(picture, metadata={"Date": None} if picture.endswith(".svg") else None)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
