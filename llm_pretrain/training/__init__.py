"""Training: from a command line to a trained model."""

from __future__ import annotations

from collections.abc import Sequence


def run(arguments: Sequence[str]) -> int:
    """Train as a config file and a command line say; the exit status."""
    from llm_pretrain.training.run import run as run_training

    return run_training(arguments)
