"""The loop: batches in, steps of the optimizer, and what happens every so many of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import paddle
from paddle import Tensor

from llm_pretrain.checkpoint.directory import checkpoint_path
from llm_pretrain.checkpoint.save import SavedState
from llm_pretrain.config import RunConfig, plan_batches
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.config.schedule_arguments import batch_at, length_at
from llm_pretrain.data import Batch, Datasets
from llm_pretrain.data.preprocess.tokenizers import load_tokenizer
from llm_pretrain.machine.device import CopiesAhead
from llm_pretrain.models.maximal_update import MaximalUpdate
from llm_pretrain.parallel.comm import collectives, progress
from llm_pretrain.parallel.comm.topology import Topology
from llm_pretrain.parallel.layers.micro_batch import split_batch
from llm_pretrain.parallel.layers.vocabulary import IGNORED_LABEL
from llm_pretrain.parallel.pipeline.executor import Pipeline
from llm_pretrain.parallel.sharding.optimizer import LossScale, ShardedAdamW, StepResult
from llm_pretrain.training.agreement import StopSignal
from llm_pretrain.training.counts import Interval, Progress
from llm_pretrain.training.evaluate import Evaluations
from llm_pretrain.training.integrity import FlippedBitsError, Integrity
from llm_pretrain.training.origin import changes, repeated_decay
from llm_pretrain.training.preflight import tokenizer_directory
from llm_pretrain.training.reports import Reports
from llm_pretrain.training.resume import Loaded, Shards, load_unless_damaged, newest_state
from llm_pretrain.training.sample_order import accept_samples, sample_order
from llm_pretrain.training.saves import Saves
from llm_pretrain.training.shared_batches import Batches, open_batches
from llm_pretrain.training.stability import UnstableRunError
from llm_pretrain.training.stragglers import Stragglers
from llm_pretrain.training.text_samples import TextSamples
from llm_pretrain.training.update import Updates


class Trainer:
    """Trains one stage of a model together with the other ranks.

    Args:
        origin: what makes this run's checkpoints, see `origin_of`.
        checkpoint_extras: what belongs beside all weights that are saved (a tokenizer's files).
        stop: what a signal to any rank is noted in.
    """

    def __init__(
        self,
        run: RunConfig,
        model: ModelConfig,
        topology: Topology,
        pipeline: Pipeline,
        datasets: Datasets,
        reports: Reports,
        *,
        origin: dict[str, Any],
        checkpoint_extras: list[Path],
        stop: StopSignal,
    ) -> None:
        self.run = run
        self.model = model
        self.topology = topology
        self.pipeline = pipeline
        self.datasets = datasets
        self.reports = reports
        self.stop = stop
        training = run.training
        self.full_batch = plan_batches(run, topology.degrees).samples_per_step
        """Samples of a step, after the ramp of the batch."""
        self.flops_per_token = cache(model.flops_per_token)
        self.loss_scale = LossScale(
            training.scale_loss if training.compute_dtype == "float16" else 1.0,
            is_dynamic=training.compute_dtype == "float16",
        )
        self.optimizer = ShardedAdamW(
            pipeline.stage,
            training,
            topology,
            tied_embedding=model.tie_word_embeddings,
            rate_of=MaximalUpdate(model, training).rate,
        )
        saved = SavedState(
            Path(training.output_dir), pipeline.stage, model, self.optimizer, topology
        )
        self.saves = Saves(run, saved, reports, checkpoint_extras)
        self.updates = Updates(run, self.optimizer, self.loss_scale, self.saves, reports)
        self.origin = origin
        self.changes: list[str] = []
        """Of the origin since the checkpoint that the run goes on from."""
        self.copies = CopiesAhead()
        self.progress = Progress()
        self.total = Interval()
        self.has_saved_model = False
        self.is_rewound = False
        """Whether the weights are those of an earlier step than the samples that were read last."""
        self.evaluated = (-1, math.inf)
        """Step and loss of the last whole evaluation."""
        self.integrity = Integrity(training, topology, self.optimizer, reports)
        self.stragglers = Stragglers(training, topology, reports)
        # Read when one of the two first asks, and once.
        tokenizer = cache(lambda: load_tokenizer(tokenizer_directory(run)))
        parts = run, model, topology, pipeline, tokenizer
        self.evaluations = Evaluations(*parts, lambda: bool(stop.agree()))
        self.text_samples = TextSamples(*parts, reports)

    def restore(self, loaded: Loaded) -> None:
        """Take up the state of a checkpoint.

        Raises:
            ConfigError: the data does not reach to the end.
        """
        state = loaded.state
        self.saves.settle()
        self._take_up(state, loaded.shards, loaded.steps)
        self.saves.last = loaded.checkpoint
        self.saves.went_on_from = {self.progress.global_step: loaded.checkpoint}
        if self.run.training.ignore_data_skip:
            self.progress.consumed_samples = 0
        if not self.run.training.do_train:
            return
        self.changes = changes(state.get("origin", {}), self.origin)
        for line in self.changes:
            self.reports.message(f"Changed since {loaded.checkpoint.name}: {line}")
        samples = len(self.datasets.train or ())
        notices = repeated_decay(self.run, loaded.checkpoint, state)
        notices += accept_samples(self.run, state, samples, self.topology.degrees, self.origin)
        for line in notices:
            self.reports.message(line)

    def _take_up(self, state: Mapping[str, Any], shards: Shards, steps: int) -> None:
        self.progress = Progress.restore(state["progress"])
        self.loss_scale.restore(state["loss_scale"])
        self.updates.stability.restore(state.get("stability"))
        self.optimizer.restore(shards, steps)

    def train(self) -> int:
        """Train to `max_steps`; return the signal that ended it early, or 0.

        Raises:
            UnstableRunError: it has left its course, which the summary says, too.
        """
        training = self.run.training
        self.reports.is_training = True
        self.stop.agree()
        self.beginning = self._state()
        try:
            while self._has_steps_left():
                with self._loader() as loader:
                    try:
                        self._train_on(loader)
                    except FlippedBitsError:
                        self.go_back()
        except UnstableRunError as error:
            self.saves.finish()
            self.summarize(ended_by=error.kind)
            raise
        self._finish_saves()
        self.reports.is_training = False
        last = self.progress.global_step
        if training.do_eval and not self.stop.agreed and self.progress.evaluated_step != last:
            # The evaluation of the last step was broken off in an earlier run.
            self.evaluate()
            if not self.stop.agreed and training.save_strategy != "no":
                self.save()
                self._finish_saves()
        return self.stop.agreed

    def _finish_saves(self) -> None:
        """Return when the last checkpoint is published."""
        self.saves.finish()
        while self.saves.must_retry:
            self.save()
            self.saves.finish()

    def _train_on(self, loader: Batches) -> None:
        """Take steps to the end, or until the run is rewound to samples that have been read."""
        training = self.run.training
        interval = Interval()
        self.is_rewound = False
        self.integrity.begin(self.progress.global_step)
        while self._has_steps_left() and not self.is_rewound:
            self.progress.global_step += 1
            result = self.step(loader, self.total, interval)
            if result and self._report(result, interval):
                interval = Interval()
            if self._is_due(training.evaluation_strategy, training.eval_steps):
                self.evaluate()
            step = self.progress.global_step
            self.text_samples.take(step)
            is_saved = bool(self.stop.agreed or self.is_rewound or self.saves.is_due(step))
            self.integrity.compare(step, saves=is_saved)
            if is_saved:
                self.save()

    def go_back(self) -> None:
        """Take up the newest state that was saved, or the first; the steps since are repeated."""
        self.integrity.assert_may_repeat()
        self.saves.finish()
        step = self.progress.global_step
        self.optimizer.drop_gradients()
        now = self.run, self.model, self.optimizer, self.reports
        self._take_up(*newest_state(*now, self.beginning, self.saves.went_on_from))
        self.evaluated = (-1, math.inf)
        self.reports.rewound(step, self.progress.global_step)

    def _has_steps_left(self) -> bool:
        return self.progress.global_step < self.run.training.max_steps and not self.stop.agreed

    def _loader(self) -> Batches:
        assert self.datasets.train is not None
        return open_batches(
            self.datasets.train,
            self.topology,
            batch_size=self.run.training.per_device_train_batch_size,
            consumed_samples=self.progress.consumed_samples,
            workers=self.run.training.dataloader_num_workers,
        )

    def step(
        self, loader: Iterator[Batch], total: Interval, interval: Interval
    ) -> StepResult | None:
        """One step of the optimizer; None where the step's data is passed over."""
        training = self.run.training
        began = progress.begin("the samples", step := self.progress.global_step)
        consumed = self.progress.consumed_samples
        whole = self.run.data.max_seq_length
        samples = batch_at(consumed * whole, training, self.full_batch)
        length = length_at(consumed * whole, training, whole)
        parts = samples // training.per_device_train_batch_size
        batches = [next(loader).cut(length) for _ in range(parts // self.topology.batch_degree)]
        self.progress.consumed_samples += samples
        if any(first <= step <= last for first, last in training.skip_data_intervals or ()):
            self.reports.message(f"Step {step}: its data is passed over (skip_data_intervals).")
            self.stop.agree()
            progress.end(began)
            return None
        micro_batches = [
            part
            for batch in batches
            for part in split_batch(
                *(batch.tokens, batch.labels, len(batch.tokens)),
                ignored_label=IGNORED_LABEL,
                first_sample=batch.first_sample,
                seed=training.seed,
                structure=batch.structure,
                copy=self.copies.copy,
            )
        ]
        self.copies.finish()

        def gradients() -> tuple[Tensor, Tensor]:
            self.optimizer.begin_step(len(micro_batches))
            own = self.pipeline.train(micro_batches, self.loss_scale.value / parts)
            loss_sum = self.topology.sum_over_batch(self.integrity.note_part(step, own))
            return loss_sum, self.optimizer.reduce_gradients()

        loss_sum, norm = self.integrity.gradients(step, gradients)
        wishes = self.stop.wish(
            self.saves.wish(), self.integrity.doubts(norm), self.stragglers.own_time()
        )
        # The one time in a step that the host waits for the device.
        loss, norm, signal, is_due, is_writing, *known = collectives.read(
            paddle.concat([loss_sum, norm, wishes])
        )
        loss /= parts
        self.stop.agree(signal)
        self.saves.heed([is_due, is_writing])
        self.stragglers.note(step, known[2:])
        self.integrity.assert_intact(step, *known[:2])
        self.integrity.before_update()
        result, self.progress = self.updates.update(self.progress, loss, norm, samples)
        self.is_rewound = result is None
        self.integrity.after_update()
        seconds = progress.end(began)
        tokens = samples * whole
        flops = tokens * self.flops_per_token(length)
        wait = sum(batch.wait_s for batch in batches)
        for sums in (total, interval):
            sums.add(loss=loss, seconds=seconds, tokens=tokens, flops=flops, wait_seconds=wait)
        return result

    def _report(self, result: StepResult, interval: Interval) -> bool:
        """Show what a step has come to; whether the interval's metrics were due."""
        training = self.run.training
        self.reports.progressed(self.progress, interval)
        first = training.logging_first_step and self.progress.global_step == 1
        is_due = first or self._is_due(training.logging_strategy, training.logging_steps)
        if is_due:
            self.reports.step(self.progress, interval, result, self.loss_scale)
        return is_due

    def evaluate(self) -> None:
        """Evaluate on the validation sets."""
        with self.reports.spending("evaluation"):
            metrics = self._unless_broken_off(self.evaluations.of_validation(self.datasets))
        if metrics is not None:
            self.reports.evaluation(self.progress, metrics)
            self.evaluated = (self.progress.global_step, metrics["eval_loss"])
            self.progress.evaluated_step = self.progress.global_step

    def predict(self) -> None:
        """Evaluate on the test split."""
        assert self.datasets.test is not None
        found = self.evaluations.of(self.datasets.test, self.run.training.test_iters)
        metrics = self._unless_broken_off(found)
        if metrics is not None:
            renamed = {name.replace("eval_", "test_"): value for name, value in metrics.items()}
            self.reports.evaluation(self.progress, renamed)

    def _unless_broken_off(self, metrics: dict[str, float] | None) -> dict[str, float] | None:
        if metrics is None:
            self.reports.message("The evaluation was broken off by a signal.")
        return metrics

    def _note_best(self) -> None:
        """Remember the step that is being saved if no saved one was evaluated better."""
        step, loss = self.evaluated
        if not math.isfinite(loss):
            return
        best = self.progress.best_metric
        if step == self.progress.global_step and (best is None or loss < best):
            self.progress.best_metric, self.progress.best_step = loss, step

    def save(self) -> None:
        """Save a checkpoint of this step, or begin to."""
        self._note_best()
        spared = self.updates.stability.spared()
        if self.run.training.load_best_model_at_end and self.progress.best_step is not None:
            spared.add(self.progress.best_step)
        is_needed = bool(self.stop.agreed) or self.is_rewound
        step, sums = self.progress.global_step, self.integrity.sums_of_state()
        self.saves.save(step, self._state(), spared, is_needed=is_needed, sums=sums)

    def _state(self) -> dict[str, Any]:
        """What a checkpoint has besides weights and the optimizer's shards."""
        return {
            "progress": self.progress.state(),
            "loss_scale": self.loss_scale.state(),
            "stability": self.updates.stability.state(),
            "sample_order": sample_order(self.run, len(self.datasets.train or ())),
            "samples_asked": self.datasets.samples_asked,
            "origin": self.origin,
        }

    def save_model(self) -> None:
        """Write the final weights to `output_dir`."""
        self.has_saved_model = True
        if self.run.training.load_best_model_at_end and self.progress.best_step is not None:
            self._take_best()
        self.saves.save_weights()

    def _take_best(self) -> None:
        step = self.progress.best_step
        assert step is not None
        path = checkpoint_path(self.run.training.output_dir, step)
        if not path.is_dir():
            self.reports.message(f"The best step, {step}, has no checkpoint; the last is kept.")
            return
        best = load_unless_damaged(path, self.optimizer)
        if not isinstance(best, Loaded):
            self.reports.message(f"{best}. The final model is that of the last step.")
            return
        self.optimizer.restore(best.shards, best.steps)
        self.reports.message(f"The final model is that of step {step}, the best evaluated.")

    def summarize(self, *, ended_by: str | None = None) -> None:
        """Say what the run has done and left, and how to go on.

        Args:
            ended_by: what ended it before its last step, unless a signal did.
        """
        training = self.run.training
        best = self.progress.best_step
        best_path = None if best is None else checkpoint_path(training.output_dir, best)
        self.reports.summary(
            self.progress,
            self.total,
            {
                "ended_by": ended_by,
                "went_back_to": ", ".join(map(str, self.updates.stability.rewound_to)) or None,
                "final_model": training.output_dir if self.has_saved_model else None,
                "last_checkpoint": self.saves.last,
                "best_checkpoint": best_path if best_path and best_path.is_dir() else None,
            },
        )

    def _is_due(self, strategy: str, every: int | None) -> bool:
        """Whether what happens by `strategy` happens after this step, as after the last it does."""
        step = self.progress.global_step
        is_last = step == self.run.training.max_steps
        is_multiple = isinstance(every, int) and every > 0 and step % every == 0
        return strategy != "no" and (is_last or (strategy == "steps" and is_multiple))
