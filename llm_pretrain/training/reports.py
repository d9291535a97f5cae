"""What the run tells: made on every rank, shown by rank 0."""

from __future__ import annotations

import math
import signal
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from llm_pretrain.checkpoint.checksums import Checksums
from llm_pretrain.config import RunConfig
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.config.training_arguments import learning_rate_at
from llm_pretrain.machine import device
from llm_pretrain.machine.terminal import shown
from llm_pretrain.monitor.peak_flops import peak_flops
from llm_pretrain.monitor.reporter import Reporter
from llm_pretrain.parallel.comm import epochs
from llm_pretrain.parallel.comm.topology import Topology
from llm_pretrain.parallel.sharding.optimizer import LossScale, StepResult
from llm_pretrain.training.run_record import command_to_go_on, write_run_record


@dataclass
class Progress:
    """Counted over the whole run, resumed parts included; stored in checkpoints."""

    global_step: int = 0
    consumed_samples: int = 0
    best_metric: float | None = None
    best_step: int | None = None
    skipped_steps: int = 0
    """Steps whose float16 gradient overflowed, so that they changed no weight."""
    evaluated_step: int | None = None
    """The last step that was evaluated."""

    def state(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def restore(cls, state: dict[str, Any]) -> Progress:
        return cls(
            int(state["global_step"]),
            int(state["consumed_samples"]),
            state["best_metric"],
            state["best_step"],
            # Absent in checkpoints of older versions.
            int(state.get("skipped_steps", 0)),
            state.get("evaluated_step"),
        )


@dataclass
class Interval:
    """Sums over the steps since the last report, or since the start."""

    steps: int = 0
    loss: float = 0.0
    last_loss: float = 0.0
    """Of the last step alone."""
    seconds: float = 0.0
    tokens: int = 0
    """Of all devices together."""
    wait_seconds: float = 0.0
    """Of this rank, for data."""

    def add(self, *, loss: float, seconds: float, tokens: int, wait_seconds: float) -> None:
        self.steps += 1
        self.loss += loss
        self.last_loss = loss
        self.seconds += seconds
        self.tokens += tokens
        self.wait_seconds += wait_seconds


class Reports:
    """Metrics of steps, evaluations and the whole run."""

    def __init__(self, run: RunConfig, model: ModelConfig, topology: Topology) -> None:
        self.run = run
        self.topology = topology
        self.parameters = model.parameter_count()
        self.flops_per_token = model.flops_per_token(run.data.max_seq_length)
        self.peak = peak_flops(device.name(), run.training.compute_dtype)
        self.is_training = False
        """Whether steps are being taken."""
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
            self.reporter.message(shown(text))

    def operators(self, served_by: dict[str, str]) -> None:
        if self.reporter:
            self.reporter.operators(served_by)

    def start(
        self,
        progress: Progress,
        origin: Mapping[str, Any],
        operators: Mapping[str, str],
        changes: Sequence[str],
    ) -> None:
        """Leave the record of a run that starts at this step."""
        if not self.reporter:
            return
        self.reporter.hyper_parameters(origin["run"])
        try:
            write_run_record(
                self.run,
                origin,
                parameters=self.parameters,
                operators=operators,
                device=device.name(),
                step=progress.global_step,
                changes=changes,
            )
        except OSError as error:
            self.message(f"No run.json: {error}")

    def progressed(self, progress: Progress, loss: float) -> None:
        """Any step, logged or not."""
        if self.reporter:
            epochs.stepped(progress.global_step)
            self.reporter.progressed(progress.global_step, loss)

    def skipped(self, progress: Progress, loss_scale: LossScale) -> None:
        """A step that overflowed in float16; `loss_scale` is that of the next."""
        self.message(
            f"Step {progress.global_step} skipped: float16 overflow, no weight has changed; "
            f"loss scale now {loss_scale.value:g}, {progress.skipped_steps} skipped so far."
        )

    def step(
        self, progress: Progress, interval: Interval, result: StepResult, loss_scale: LossScale
    ) -> None:
        """A logged step, the last of `interval`; `loss_scale` is that of the next."""
        if not self.reporter:
            return
        loss = interval.loss / interval.steps
        speed = self._tokens_per_second_per_device(interval)
        metrics: dict[str, float | int | str | None] = {
            "global_step": progress.global_step,
            "loss": loss,
            "ppl": perplexity(loss),
            "learning_rate": learning_rate_at(progress.global_step, self.run.training),
            "global_norm": result.global_norm,
            "step_seconds": interval.seconds / interval.steps,
            "interval_runtime": interval.seconds,
            "interval_samples_per_second": interval.tokens
            / self.run.data.max_seq_length
            / interval.seconds,
            "interval_tokens_per_second_per_device": speed,
            "interval_steps_per_second": interval.steps / interval.seconds,
            "mfu": speed * self.flops_per_token / self.peak if self.peak else None,
            **device.memory_metrics(),
            "data_wait_share": interval.wait_seconds / interval.seconds,
            "consumed_samples": progress.consumed_samples,
        }
        if loss_scale.is_dynamic:
            metrics["loss_scale"] = loss_scale.value
        if progress.skipped_steps:
            metrics["skipped_steps"] = progress.skipped_steps
        self.reporter.step(metrics)

    def evaluation(self, progress: Progress, metrics: dict[str, float]) -> None:
        if self.reporter:
            self.reporter.evaluation({"global_step": progress.global_step, **metrics})

    def saved(self, progress: Progress, checkpoint: Path, seconds: float) -> None:
        if self.reporter:
            self.reporter.saved(
                {
                    "global_step": progress.global_step,
                    "checkpoint": str(checkpoint),
                    "bytes": Checksums(checkpoint).size,
                    "seconds": seconds,
                }
            )

    def signalled(self, number: int) -> None:
        """This process was told to end; the launcher, too, which then shows no rank's output."""
        if self.reporter:
            self.reporter.reach_launcher()
        follows = (
            "the step that is under way is finished, then a checkpoint is saved"
            if self.is_training
            else "the run ends when what is under way is finished or can be broken off"
        )
        self.message(f"{signal.Signals(number).name} received: {follows}.")

    def summary(
        self, progress: Progress, total: Interval, left: Mapping[str, str | Path | None]
    ) -> None:
        """The end of the run, counted from the steps that this process really took.

        Args:
            left: what the run has left where, by name; None of it is left out.
        """
        if not self.reporter:
            return
        metrics: dict[str, float | int | str | None] = {
            "global_step": progress.global_step,
            "steps_in_this_run": total.steps,
            "consumed_samples": progress.consumed_samples,
            "train_runtime": total.seconds,
        }
        if progress.skipped_steps:
            metrics["skipped_steps"] = progress.skipped_steps
        if total.steps:
            metrics |= {
                "train_loss": total.loss / total.steps,
                "tokens": total.tokens,
                "tokens_per_second_per_device": self._tokens_per_second_per_device(total),
                "max_memory_allocated": device.max_memory_allocated(),
            }
        metrics |= {name: str(path) for name, path in left.items() if path is not None}
        self.reporter.summary(metrics)
        last = left["last_checkpoint"]
        if last is not None:
            is_done = left["final_model"] is not None
            more = 2 * self.run.training.max_steps if is_done else None
            name = "for_more_steps" if is_done else "to_go_on"
            self.reporter.command(name, command_to_go_on(self.run, Path(last), more))

    def close(self) -> None:
        if self.reporter:
            self.reporter.close()

    def _tokens_per_second_per_device(self, interval: Interval) -> float:
        return interval.tokens / interval.seconds / self.topology.world_size


def _default_logging_dir(output_dir: str) -> Path:
    now = datetime.now().strftime("%b%d_%H-%M-%S")
    return Path(output_dir) / "runs" / f"{now}_{socket.gethostname()}"


def perplexity(loss: float) -> float:
    """e to the loss, as far as a float reaches."""
    return math.exp(min(loss, 700.0))
