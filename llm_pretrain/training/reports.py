"""What the run tells: made on every rank, shown by rank 0."""

from __future__ import annotations

import socket
import sys
from datetime import datetime
from pathlib import Path

import paddle

from llm_pretrain.config import RunConfig
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.monitor.device_peak import peak_flops
from llm_pretrain.monitor.memory import max_memory_allocated
from llm_pretrain.monitor.reporter import Reporter
from llm_pretrain.parallel.topology import Topology
from llm_pretrain.terminal import fit
from llm_pretrain.training.optimizer import StepResult
from llm_pretrain.training.progress import Interval, Progress
from llm_pretrain.training.schedule import learning_rate


class Reports:
    """Metrics of steps, evaluations and the whole run."""

    def __init__(self, run: RunConfig, config: ModelConfig, topology: Topology) -> None:
        self.run = run
        self.topology = topology
        self.flops_per_token = config.flops_per_token(run.data.max_seq_length)
        self.peak = peak_flops(_device_name(), run.training.compute_dtype)
        self.reporter: Reporter | None = None
        if topology.rank == 0:
            training = run.training
            self.reporter = Reporter(
                training.output_dir,
                training.logging_dir or _default_logging_dir(training.output_dir),
                training.report_to,
                max_steps=training.max_steps,
                disable_tqdm=training.disable_tqdm,
            )

    def message(self, text: str) -> None:
        """Show a text: on a terminal in lines that fit it, elsewhere in lines as they are."""
        if self.reporter:
            self.reporter.message(fit(text, hanging=2) if sys.stdout.isatty() else text)

    def operators(self, served_by: dict[str, str]) -> None:
        if self.reporter:
            self.reporter.operators(served_by)

    def step(self, progress: Progress, interval: Interval, result: StepResult) -> None:
        if not self.reporter:
            return
        if result.is_skipped:
            self.message(
                f"Step {progress.global_step}: a gradient overflowed; the weights stay as they "
                "were and the loss scale is halved."
            )
        speed = self._tokens_per_second_per_device(interval)
        self.reporter.step(
            {
                "global_step": progress.global_step,
                "loss": interval.loss / interval.steps,
                "learning_rate": learning_rate(progress.global_step, self.run.training),
                "global_norm": result.global_norm,
                "interval_tokens_per_second_per_device": speed,
                "mfu": speed * self.flops_per_token / self.peak if self.peak else None,
                "max_memory_allocated": max_memory_allocated(),
                "data_wait_share": interval.wait_seconds / interval.seconds,
                "consumed_samples": progress.consumed_samples,
            }
        )

    def evaluation(self, progress: Progress, metrics: dict[str, float]) -> None:
        if self.reporter:
            self.reporter.evaluation({"global_step": progress.global_step, **metrics})

    def summary(self, progress: Progress, total: Interval) -> None:
        """The end of the run, counted from the steps that this process really took."""
        if not self.reporter:
            return
        metrics: dict[str, float | int | str | None] = {
            "global_step": progress.global_step,
            "steps_in_this_run": total.steps,
            "consumed_samples": progress.consumed_samples,
            "train_runtime": total.seconds,
        }
        if total.steps:
            metrics |= {
                "train_loss": total.loss / total.steps,
                "tokens": total.tokens,
                "tokens_per_second_per_device": self._tokens_per_second_per_device(total),
                "max_memory_allocated": max_memory_allocated(),
            }
        self.reporter.summary(metrics)

    def close(self) -> None:
        if self.reporter:
            self.reporter.close()

    def _tokens_per_second_per_device(self, interval: Interval) -> float:
        return interval.tokens / interval.seconds / self.topology.world_size


def _device_name() -> str:
    if paddle.device.get_device().startswith("gpu"):
        return paddle.device.cuda.get_device_name()
    return "cpu"


def _default_logging_dir(output_dir: str) -> Path:
    now = datetime.now().strftime("%b%d_%H-%M-%S")
    return Path(output_dir) / "runs" / f"{now}_{socket.gethostname()}"
