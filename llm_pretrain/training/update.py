"""The update of the weights at the end of a step, as far as the run's course allows it."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from llm_pretrain.config import RunConfig
from llm_pretrain.config.schedule_arguments import learning_rate_at
from llm_pretrain.parallel.sharding.optimizer import LossScale, ShardedAdamW, StepResult
from llm_pretrain.training.counts import Progress
from llm_pretrain.training.reports import Reports
from llm_pretrain.training.resume import load_newest_before
from llm_pretrain.training.saves import Saves
from llm_pretrain.training.stability import Decision, Stability, Step


class Updated(NamedTuple):
    """What an update has come to."""

    result: StepResult | None
    """None where the run has gone back to earlier weights."""
    progress: Progress


class Updates:
    """Applies the gradients of each step, skips them, or goes back, as `Stability` decides."""

    def __init__(
        self,
        run: RunConfig,
        optimizer: ShardedAdamW,
        loss_scale: LossScale,
        saves: Saves,
        reports: Reports,
    ) -> None:
        self.training = run.training
        self.optimizer = optimizer
        self.loss_scale = loss_scale
        self.saves = saves
        self.reports = reports
        self.stability = Stability(run.training)

    def update(self, progress: Progress, loss: float, norm: float, samples: int) -> Updated:
        """Do what is to be done with the reduced gradients of a step.

        Args:
            progress: the step and its samples included.
            norm: of the gradients of the scaled loss.
            samples: of the step.

        Raises:
            UnstableRunError: the run ends with this step; no weight has changed.
        """
        if self.loss_scale.overflows(norm):
            return self._apply(progress, norm)
        consumed = progress.consumed_samples
        step = Step(
            progress.global_step,
            loss,
            norm / self.loss_scale.value,
            (consumed - samples, consumed - 1),
        )
        decision = self.stability.decide(step)
        if decision.action == "rewind":
            earlier = self._go_back(decision, progress)
            if earlier is not None:
                return Updated(None, earlier)
            text = f"{decision.text} There is no checkpoint to go back to."
            decision = replace(decision, action="skip", text=text)
        if decision.action == "skip":
            self.optimizer.drop_gradients()
            progress.skipped_steps += 1
        if decision.kind != "good":
            self.reports.unstable(decision, progress)
        if decision.action == "skip":
            return Updated(StepResult(step.norm, is_skipped=True), progress)
        return self._apply(progress, norm)

    def _apply(self, progress: Progress, norm: float) -> Updated:
        rate = learning_rate_at(progress.global_step, self.training)
        result = self.optimizer.step(norm, rate, self.loss_scale)
        if result.is_skipped:
            progress.skipped_steps += 1
            self.reports.skipped(progress, self.loss_scale)
        return Updated(result, progress)

    def _go_back(self, decision: Decision, now: Progress) -> Progress | None:
        """Take up the weights of the last good checkpoint; the progress from there on, past the
        samples of this step (see `stability`). None, and nothing has changed, without one."""
        self.saves.finish()
        loaded = load_newest_before(
            now.global_step,
            self.training.output_dir,
            self.saves.went_on_from,
            self.optimizer,
            self.reports,
        )
        if loaded is None:
            return None
        then = Progress.restore(loaded.state["progress"])
        self.optimizer.drop_gradients()
        self.optimizer.restore(loaded.shards, loaded.steps)
        self.loss_scale.restore(loaded.state["loss_scale"])
        self.stability.go_back(loaded.state.get("stability"), then.global_step, now.global_step)
        self.reports.unstable(decision, now)
        passed_over = self.stability.all_passed_over()
        self.reports.gone_back(now, loaded.checkpoint, then.global_step, passed_over)
        return replace(then, global_step=now.global_step, consumed_samples=now.consumed_samples)
