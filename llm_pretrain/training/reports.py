"""What the run tells: made on every rank, shown by rank 0."""

from __future__ import annotations

import math
import signal
import time
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from llm_pretrain.checkpoint.checksums import Checksums
from llm_pretrain.config import RunConfig
from llm_pretrain.config.data_stages import DataStage, stages_begun
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.config.schedule_arguments import learning_rate_at
from llm_pretrain.machine import device
from llm_pretrain.machine.language import translated
from llm_pretrain.machine.terminal import shown
from llm_pretrain.monitor.alerts import Alerts, plain
from llm_pretrain.monitor.peak_flops import peak_flops
from llm_pretrain.monitor.reporter import Reporter
from llm_pretrain.parallel.comm import epochs
from llm_pretrain.parallel.comm.topology import Topology
from llm_pretrain.parallel.sharding.optimizer import LossScale, StepResult
from llm_pretrain.training.counts import Interval, Progress
from llm_pretrain.training.expectation import Expectation
from llm_pretrain.training.goodput import RECORD_SECONDS, Goodput, in_words
from llm_pretrain.training.run_record import add_goodput, command_to_go_on, write_run_record
from llm_pretrain.training.stability import Decision


class Reports:
    """Metrics of steps, evaluations and the whole run, and its events.

    Args:
        alerts: gets the events; by default as the run's configuration says.
    """

    def __init__(
        self,
        run: RunConfig,
        model: ModelConfig,
        topology: Topology,
        alerts: Alerts | None = None,
    ) -> None:
        self.run = run
        self.alerts = alerts or alerts_of(run)
        self.topology = topology
        self.parameters = model.parameter_count()
        self.peak = peak_flops(device.name(), run.training.compute_dtype)
        self.is_training = False
        """Whether steps are being taken."""
        self.goodput = Goodput()
        self._recorded = -math.inf
        self.of_ranks: dict[str, float | int] = {}
        """What is known of the ranks' own times in the step before the last."""
        self.expectation: Expectation | None = None
        self.last_evaluation: dict[str, float] = {}
        """Its losses and perplexities; {} before the first."""
        self.reporter: Reporter | None = None
        if topology.rank == 0:
            training = run.training
            is_anew = training.overwrite_output_dir or training.resume_from_checkpoint is False
            self.reporter = Reporter(
                training.output_dir,
                training.logging_dir,
                training.report_to,
                max_steps=training.max_steps,
                is_anew=is_anew,
                disable_tqdm=training.disable_tqdm,
            )
            self.goodput = Goodput(None if is_anew else self.reporter.last_goodput)
            self._record_goodput()
            self.alerts.say = self.message
            self.alerts.begin()

    def message(self, text: str) -> None:
        """Say something, in the reader's language."""
        self.show(translated(text))

    def show(self, text: str) -> None:
        """Show a text: on a terminal in lines that fit it, elsewhere in lines as they are."""
        if self.reporter:
            self.reporter.show(shown(text))

    def event(self, kind: str, message: str, **fields: Any) -> None:
        """Something that the operator of the run is told: on the console, in train_log.jsonl (kind
        "event") and by `alert_command` and `alert_url`. It returns at once.

        Every rank may call it, and the first rank tells. The end of the job with an error is not
        told here: raise the error.

        Args:
            kind: "spike", "failed_save", …: a word of [a-z_].
            message: whole sentences.
            fields: values of the event's own; `global_step` is otherwise the last step taken.
        """
        if self.reporter:
            self.message(message)
            self._tell(kind, message, **fields)

    def _tell(self, kind: str, message: str, **fields: Any) -> None:
        """An event that the console has another text for."""
        if self.reporter:
            step = self.alerts.global_step
            self.reporter.event(
                {"event": kind, "global_step": step, "message": message, **plain(fields)}
            )
            self.alerts.send(kind, message, **fields)

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
        self.alerts.global_step = progress.global_step
        self.alerts.has_started = True
        if not self.reporter:
            return
        step, last = progress.global_step, self.run.training.max_steps
        if step or self.goodput.highest_step:
            after = f" Before that: {epochs.after()}" if epochs.after() else ""
            self._tell("restart", f"The run goes on from step {step} of {last}.{after}")
        if self.run.training.metrics_port is not None:
            self.reporter.serve(self.run.training.metrics_port)
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
                goodput_seconds=self.goodput.seconds(),
            )
        except OSError as error:
            self.message(f"No run.json: {error}")
            return
        if device.kind() == "gpu":
            self.expectation = Expectation(self.run.training.output_dir)

    def progressed(self, progress: Progress, interval: Interval) -> None:
        """Any step, logged or not: the last of `interval`."""
        step, last = progress.global_step, interval.last
        assert last is not None, "a step has been added"
        self.alerts.global_step = step
        self.goodput.step(step, last.seconds, last.wait_seconds)
        if self.reporter:
            epochs.stepped(step)
            page = self.reporter.page
            page.count("steps_total")
            page.count("samples_total", last.tokens / self.run.data.max_seq_length)
            page.count("tokens_total", last.tokens)
            self._show_goodput()
            self.reporter.progressed(step, last.loss)
            if self.run.data.data_stages:
                self._tell_stages(self.run.data.data_stages, progress, last)
        if time.monotonic() - self._recorded > RECORD_SECONDS:
            self._record_goodput()

    def _tell_stages(self, stages: Sequence[DataStage], progress: Progress, last: Interval) -> None:
        """Which stages of the data the last step has begun."""
        length, end = self.run.data.max_seq_length, progress.consumed_samples
        taken = range(end - last.tokens // length, end)
        for number, stage in stages_begun(stages, length, taken):
            self.event("data_stage", f"Stage {number} of the data has begun: {stage.blend}.")

    def skipped(self, progress: Progress, loss_scale: LossScale) -> None:
        """A step that overflowed in float16; `loss_scale` is that of the next."""
        if self.reporter:
            self.reporter.page.count("skipped_steps_total")
        self.message(
            f"Step {progress.global_step} skipped: float16 overflow, no weight has changed; "
            f"loss scale now {loss_scale.value:g}, {progress.skipped_steps} skipped so far."
        )

    @contextmanager
    def spending(self, share: str) -> Iterator[None]:
        """Count what the block takes as the run's time in `share`, see `goodput`."""
        with self.goodput.spending(share):
            yield
        self._show_goodput()

    def _show_goodput(self) -> None:
        if self.reporter:
            self.reporter.page.count_up_to("wall_seconds_total", self.goodput.seconds(), "share")

    def _record_goodput(self) -> None:
        self._recorded = time.monotonic()
        if self.reporter and self.run.training.do_train:
            self.reporter.goodput(self.goodput.record())

    def unstable(self, decision: Decision, progress: Progress) -> None:
        """A step that was not good, and what is done about it."""
        follows = {
            "apply": "The update is made all the same.",
            "skip": f"Its update is skipped, {progress.skipped_steps} so far.",
            "rewind": "The run goes back.",
        }
        if self.reporter and decision.action == "skip":
            self.reporter.page.count("skipped_steps_total")
        self.event(
            decision.kind,
            f"{decision.text} {follows[decision.action]}",
            global_step=progress.global_step,
            action=decision.action,
            **decision.figures,
        )

    def gone_back(
        self, progress: Progress, checkpoint: Path, step: int, passed_over: list[list[int]]
    ) -> None:
        """The run has the weights of a checkpoint of `step`, and will not train on the samples of
        the steps since; `passed_over` is all of its `skip_data_intervals`."""
        last = progress.global_step
        steps = f"step {last}" if last == step + 1 else f"steps {step + 1} to {last}"
        self.event(
            "rewind",
            f"Back at the weights of step {step} ({checkpoint}). The data of {steps} is passed "
            f'over, as it is from the start with "skip_data_intervals": {passed_over}.',
            global_step=last,
            rewound_to=step,
        )

    def step(
        self, progress: Progress, interval: Interval, result: StepResult, loss_scale: LossScale
    ) -> None:
        """A logged step, the last of `interval`; `loss_scale` is that of the next."""
        if not self.reporter:
            return
        loss = interval.mean_loss
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
            "mfu": speed * interval.flops / interval.tokens / self.peak if self.peak else None,
            **device.memory_metrics(),
            "data_wait_share": interval.wait_seconds / interval.seconds,
            "consumed_samples": progress.consumed_samples,
            "goodput": self.goodput.share(),
            **self.of_ranks,
        }
        if loss_scale.is_dynamic:
            metrics["loss_scale"] = loss_scale.value
        if progress.skipped_steps:
            metrics["skipped_steps"] = progress.skipped_steps
        self.reporter.step(metrics)

    def evaluation(self, progress: Progress, metrics: dict[str, float]) -> None:
        self.last_evaluation = {
            name: value for name, value in metrics.items() if name.endswith(("_loss", "_ppl"))
        }
        if self.reporter:
            self.reporter.evaluation({"global_step": progress.global_step, **metrics})

    def text_sample(self, step: int, prompt: str, text: str) -> None:
        """What the model of this step lets follow a prompt."""
        if self.reporter:
            self.show(in_a_line(f"{translated(f'Step {step}:')} {prompt}|{text}"))
            self.reporter.note("sample", {"global_step": step, "prompt": prompt, "text": text})

    def saved(self, step: int, checkpoint: Path, seconds: float, blocked_seconds: float) -> None:
        """A checkpoint that is published; training has waited for `blocked_seconds` of them."""
        if self.reporter:
            epochs.saved(step)
            self.reporter.saved(
                {
                    "global_step": step,
                    "checkpoint": str(checkpoint),
                    "bytes": Checksums(checkpoint).size,
                    "seconds": seconds,
                    "blocked_seconds": blocked_seconds,
                }
            )
            self._record_goodput()

    def rewound(self, step: int, to: int) -> None:
        """The run has gone back within itself; what was logged of the steps since is void."""
        self.message(f"The run goes back from step {step} to step {to}.")
        if self.reporter:
            self.reporter.note("rewind", {"global_step": step, "rewound_to": to})

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
            "goodput": self.goodput.share(),
        }
        if progress.skipped_steps:
            metrics["skipped_steps"] = progress.skipped_steps
        if total.steps:
            metrics |= {
                "train_loss": total.mean_loss,
                "tokens": total.tokens,
                "tokens_per_second_per_device": self._tokens_per_second_per_device(total),
                "max_memory_allocated": device.max_memory_allocated(),
                **(self.expectation.metrics() if self.expectation else {}),
            }
        metrics |= self.last_evaluation
        metrics |= {name: str(path) for name, path in left.items() if path is not None}
        seconds = self.goodput.seconds()
        self.reporter.summary(metrics, {"goodput": in_words(seconds)})
        self._record_goodput()
        with suppress(OSError):
            add_goodput(self.run.training.output_dir, seconds)
        last = left["last_checkpoint"]
        if last is not None:
            is_done = left["final_model"] is not None
            more = 2 * self.run.training.max_steps if is_done else None
            name = "for_more_steps" if is_done else "to_go_on"
            self.reporter.command(name, command_to_go_on(self.run, Path(last), more))

    def end(self, stopped_by: int) -> None:
        """The run ends as it should; `stopped_by` is the signal that ended it early, or 0."""
        training = self.run.training
        name = signal.Signals(stopped_by).name if stopped_by else None
        reason = f"was ended by {name}" if name else "is done"
        at = f" at step {self.alerts.global_step} of {training.max_steps}"
        self._tell("end", f"The run {reason}{at if training.do_train else ''}.", signal=name)

    def close(self) -> None:
        """Also waits some seconds for events that are being told."""
        if self.expectation:
            self.expectation.close()
        self.alerts.close()
        if self.reporter:
            self.reporter.close()

    def _tokens_per_second_per_device(self, interval: Interval) -> float:
        return interval.tokens / interval.seconds / self.topology.world_size


def alerts_of(run: RunConfig) -> Alerts:
    training = run.training
    return Alerts(training.output_dir, training.alert_command, training.alert_url)


def perplexity(loss: float) -> float:
    """e to the loss, as far as a float reaches."""
    return math.exp(min(loss, 700.0))


def in_a_line(text: str) -> str:
    """A text whose line breaks and other control characters are escapes, since what a model makes
    can be anything, also what clears a terminal."""
    return "".join(
        sign.encode("unicode_escape").decode() if unicodedata.category(sign) == "Cc" else sign
        for sign in text
    )
