"""Everything about a training run but the model and the data, in one flat set."""

from __future__ import annotations

from typing import Any

from pydantic import PrivateAttr, field_validator, model_validator

from llm_pretrain.config.interval_arguments import (
    CheckpointArguments,
    EvaluationArguments,
    ReportArguments,
)
from llm_pretrain.config.optimizer_arguments import OptimizerArguments, PrecisionArguments
from llm_pretrain.config.parallel_arguments import ParallelArguments, RecomputeArguments
from llm_pretrain.config.run_arguments import BatchArguments, RunArguments


class TrainingArguments(
    CheckpointArguments,
    ReportArguments,
    EvaluationArguments,
    RecomputeArguments,
    ParallelArguments,
    PrecisionArguments,
    OptimizerArguments,
    BatchArguments,
    RunArguments,
):
    """Training: all groups of arguments about the run itself.

    Values that others imply are filled in here (`derived` says which and from what), so that
    readers find `eval_steps`, `decay_steps` and the like ready to use.
    """

    _derived: dict[str, str] = PrivateAttr(default_factory=dict)

    @property
    def derived(self) -> dict[str, str]:
        """Key → what its value was derived from in place of a given value or the default."""
        return dict(self._derived)

    @field_validator("disable_tqdm", "report_to", mode="before")
    @classmethod
    def _null_is_default(cls, value: Any, info: Any) -> Any:
        return cls.model_fields[info.field_name].default if value is None else value

    @model_validator(mode="after")
    def _fill_in(self) -> TrainingArguments:
        def derive(key: str, value: Any, reason: str) -> None:
            # A frozen model is filled in here, once, before anybody has seen it.
            self.__dict__[key] = value
            self._derived[key] = reason

        if self.do_eval and self.evaluation_strategy == "no":
            derive("evaluation_strategy", "steps", "do_eval")
        if self.evaluation_strategy != "no" and not self.do_eval:
            derive("do_eval", True, "evaluation_strategy")
        if self.evaluation_strategy == "steps" and not self.eval_steps:
            derive("eval_steps", self.logging_steps, "logging_steps")
        wanted = self.minimum_eval_times
        steps, every = self.max_steps, self.eval_steps
        if wanted and every and 0 < steps < wanted * every:
            # PaddleNLP's rule: a round number of steps that gives at least so many evaluations.
            every = max(steps // wanted // 10 * 10, 10)
            derive("eval_steps", every, "minimum_eval_times")
        if self.decay_steps is None and self.max_steps > 0:
            derive("decay_steps", self.max_steps, "max_steps")
        if self.recompute and not self.recompute_granularity:
            derive("recompute", False, "recompute_granularity, which is empty")
        if self.amp_master_grad and self.compute_dtype == "float32":
            derive("amp_master_grad", False, "fp16 and bf16")
        train_batch = self.per_device_train_batch_size * self.gradient_accumulation_steps
        if (
            self.pipeline_parallel_degree > 1
            and (self.do_eval or self.do_predict)
            and self.per_device_eval_batch_size != train_batch
        ):
            derive("per_device_eval_batch_size", train_batch, "the pipeline's batch")
        return self
