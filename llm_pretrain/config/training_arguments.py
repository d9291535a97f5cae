"""What a run does, how the weights are updated, and all arguments of a run in one flat set."""

from __future__ import annotations

import difflib
import re
from typing import Any, Literal

from pydantic import Field, PrivateAttr, field_validator, model_validator

from llm_pretrain.config.argument_types import (
    Arguments,
    Flag,
    Integer,
    Number,
    PathText,
    Text,
    shown,
)
from llm_pretrain.config.fault_arguments import (
    AlertArguments,
    IntegrityArguments,
    RestartArguments,
    StabilityArguments,
)
from llm_pretrain.config.interval_arguments import (
    CheckpointArguments,
    EvaluationArguments,
    ReportArguments,
)
from llm_pretrain.config.parallel_arguments import ParallelArguments, RecomputeArguments
from llm_pretrain.config.schedule_arguments import ScheduleArguments
from llm_pretrain.machine.device import KNOWN


class RunArguments(Arguments):
    """Run: what is done, where, and where the results go."""

    output_dir: PathText = Field(
        min_length=1, description="Directory for checkpoints, the final model and the logs."
    )
    overwrite_output_dir: Flag = Field(
        False, description="Start anew even if output_dir holds a checkpoint to resume from."
    )
    do_train: Flag = Field(False, description="Train for max_steps steps.")
    do_eval: Flag = Field(False, description="Evaluate on the validation split during training.")
    do_predict: Flag = Field(False, description="Evaluate on the test split at the end.")
    device: Text | None = Field(
        None,
        description="gpu, cpu, or another device that Paddle has, such as npu, xpu or mlu; "
        "null takes an accelerator where there is one, else the CPU.",
    )
    distributed_timeout: Integer = Field(
        300,
        ge=10,
        description="Seconds within which the job ends when one of its processes or machines gives "
        "no more sign of life.",
    )
    seed: Integer = Field(
        42, ge=0, lt=2**32, description="Seed of the initial weights, the data order and dropout."
    )
    print_config: Flag = Field(
        False, description="Print every value with where it came from before training."
    )

    @field_validator("device")
    @classmethod
    def _known_device(cls, device: str | None) -> str | None:
        if device is None:
            return None
        if not re.fullmatch(r"[a-z]\w*(:\d+)?", device):
            raise ValueError(f"{shown(device)} is no device: it can be gpu, gpu:N, cpu, npu, xpu …")
        kind, known = device.partition(":")[0], ("cpu", *KNOWN)
        near = difflib.get_close_matches(kind, known, n=1)
        # Paddle may have a plug-in of any other name, which only a run can ask it.
        if near and kind not in known:
            raise ValueError(f"{shown(device)} is no device; did you mean {near[0]}?")
        return device


class BatchArguments(Arguments):
    """Batch: samples per device and step, and how they are read."""

    per_device_train_batch_size: Integer = Field(
        8, gt=0, description="Samples per device and micro-step in training."
    )
    per_device_eval_batch_size: Integer = Field(
        8,
        gt=0,
        description="Samples per device and micro-step in evaluation. With pipeline parallelism "
        "it is the training batch × gradient_accumulation_steps.",
    )
    gradient_accumulation_steps: Integer = Field(
        1,
        gt=0,
        description="Micro-steps whose gradients are summed for one optimizer step; with pipeline "
        "parallelism the number of micro-batches in flight.",
    )
    dataloader_num_workers: Integer = Field(
        0, ge=0, description="Threads that read batches ahead; 0 reads in the training thread."
    )
    distributed_dataloader: Flag = Field(
        False,
        description="Of the ranks that train on the same samples (tensor and pipeline parallel, "
        "split sequences) the first reads them and sends them to the others, which need no access "
        "to the data. False: each reads for itself.",
    )
    ignore_data_skip: Flag = Field(
        False, description="On resuming, begin the data anew in place of where it stood."
    )
    skip_data_intervals: tuple[tuple[Integer, Integer], ...] | None = Field(
        None,
        description="[[first, last], …] of global steps whose data is passed over, to step around "
        "a spike of the loss.",
    )

    @field_validator("skip_data_intervals")
    @classmethod
    def _ordered(
        cls, intervals: tuple[tuple[int, int], ...] | None
    ) -> tuple[tuple[int, int], ...] | None:
        for first, last in intervals or ():
            if not 0 < first <= last:
                raise ValueError(f"[{first}, {last}] is no interval of steps: 1 <= first <= last")
        return intervals


class OptimizerArguments(Arguments):
    """Optimizer: AdamW."""

    optim: Literal["adamw"] = Field("adamw", description="The optimizer.")
    weight_decay: Number = Field(
        0.0, ge=0, description="Weight decay of matrices; biases and norms have none."
    )
    adam_beta1: Number = Field(0.9, ge=0, lt=1, description="Decay of AdamW's first moment.")
    adam_beta2: Number = Field(0.999, ge=0, lt=1, description="Decay of AdamW's second moment.")
    adam_epsilon: Number = Field(1e-8, gt=0, description="AdamW's epsilon.")
    z_loss_coefficient: Number = Field(
        0.0,
        ge=0,
        description="Of log² Σ exp(logits), which is added to the loss of every token in training, "
        "lest the logits drift; 1e-4 is usual.",
    )
    max_grad_norm: Number = Field(
        1.0,
        description="Gradients are scaled down to this global norm; 0 or less leaves them.",
    )


class TransferArguments(Arguments):
    """Transfer: the sizes of the model that learning rate and weights were tuned on (muP)."""

    mup_base_hidden_size: Integer | None = Field(
        None,
        gt=0,
        description="Hidden size of the model on which learning_rate and initializer_range were "
        "tuned: the rates and initial values of each tensor are scaled from there by muP. null is "
        "the model's own, which scales nothing.",
    )
    mup_base_head_dim: Integer | None = Field(
        None,
        gt=0,
        description="Size of an attention head of that model, where it is another: attention "
        "scores are scaled by 1 / size from there on, not by its root.",
    )
    mup_base_num_hidden_layers: Integer | None = Field(
        None,
        gt=0,
        description="Layers of that model: residual branches count as much less as there are more "
        "layers now (CompleteP).",
    )


class PrecisionArguments(Arguments):
    """Precision: number formats of weights, gradients and products."""

    fp16: Flag = Field(False, description="16-bit floating point, with a scaled loss.")
    bf16: Flag = Field(False, description="bfloat16, which needs no scaled loss.")
    fp16_opt_level: Literal["O0", "O1", "O2"] = Field(
        "O1",
        description="For fp16 and bf16: O1 keeps fp32 weights and multiplies in 16 bits; O2 keeps "
        "16-bit weights and fp32 masters in the optimizer; O0 is fp32.",
    )
    amp_master_grad: Flag = Field(
        False, description="O2: accumulate, clip and apply gradients in fp32."
    )
    scale_loss: Number = Field(
        2.0**15, gt=0, description="fp16: the first scale of the loss, adapted as training goes."
    )

    @property
    def compute_dtype(self) -> Literal["float32", "float16", "bfloat16"]:
        """Format in which products are taken."""
        if self.fp16_opt_level == "O0" or not (self.fp16 or self.bf16):
            return "float32"
        return "float16" if self.fp16 else "bfloat16"

    @property
    def weight_dtype(self) -> Literal["float32", "float16", "bfloat16"]:
        """Format of the weights that products are taken with; masters are float32 always."""
        return self.compute_dtype if self.fp16_opt_level == "O2" else "float32"


class TrainingArguments(
    AlertArguments,
    RestartArguments,
    IntegrityArguments,
    StabilityArguments,
    CheckpointArguments,
    ReportArguments,
    EvaluationArguments,
    RecomputeArguments,
    ParallelArguments,
    PrecisionArguments,
    TransferArguments,
    OptimizerArguments,
    ScheduleArguments,
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
