"""TensorBoard: curves in event files of the run's directory, which `tensorboard --logdir` shows."""

from __future__ import annotations

from collections.abc import Mapping

from tensorboardX import SummaryWriter
from tensorboardX.summary import hparams

from llm_pretrain.monitor.trackers.tracked_run import TrackedRun

SECONDS_BETWEEN_WRITES = 10


class TensorBoardTracker:
    """Writes a file of its own at each start; TensorBoard joins those of a directory."""

    def __init__(self, run: TrackedRun) -> None:
        self._writer = SummaryWriter(str(run.directory), flush_secs=SECONDS_BETWEEN_WRITES)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def hyper_parameters(self, values: Mapping[str, float | int | str]) -> None:
        # `add_hparams` would begin a second run beside this one.
        for summary in hparams(dict(values), {"train/loss": 0.0, "eval/loss": 0.0}):
            self._writer.file_writer.add_summary(summary)

    def close(self) -> None:
        self._writer.close()
