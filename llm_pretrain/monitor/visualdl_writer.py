"""Curves for VisualDL, under `train/` and `eval/`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_pretrain.monitor.metrics_log import Metrics

SECONDS_BETWEEN_WRITES = 10


class VisualDLWriter:
    """Writes the numbers of a step or an evaluation as scalars.

    Raises ImportError where VisualDL isn't installed, OSError where `directory` can't be written.
    """

    def __init__(self, directory: str | Path) -> None:
        from visualdl import LogWriter

        Path(directory).mkdir(parents=True, exist_ok=True)
        self._writer = LogWriter(logdir=str(directory), flush_secs=SECONDS_BETWEEN_WRITES)

    def write(self, prefix: str, metrics: Metrics) -> None:
        """`metrics["global_step"]` is the abscissa; what isn't a finite number is left out."""
        step = metrics.get("global_step")
        assert isinstance(step, int), "a curve needs the step"
        for name, value in metrics.items():
            if name == "global_step" or value is None or isinstance(value, str):
                continue
            if math.isfinite(value):
                tag = f"{prefix}/{name.removeprefix(prefix + '_')}"
                self._writer.add_scalar(tag=tag, step=step, value=float(value))

    def hyper_parameters(self, values: Mapping[str, Any], metrics: Sequence[str]) -> None:
        """Show `values` on VisualDL's page of hyper-parameters, beside the named curves."""
        plain = {
            # VisualDL takes a truth value for no number.
            key: value if type(value) in (int, float, str) else json.dumps(value)
            for key, value in values.items()
        }
        self._writer.add_hparams(hparams_dict=plain, metrics_list=list(metrics))

    def close(self) -> None:
        self._writer.close()
