"""Training: from a command line to a trained model."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from llm_pretrain import launchers


def run(arguments: Sequence[str]) -> int:
    """Train as a config file and a command line say; the exit status."""
    try:
        launchers.adopt(os.environ)
    except launchers.LaunchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    from llm_pretrain.training.run import run as run_training

    return run_training(arguments)
