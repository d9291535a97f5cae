"""How the weights are updated: the schedule, AdamW, and the precision of the arithmetic."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from llm_pretrain.config.arguments import Arguments, Flag, Integer, Number


class OptimizerArguments(Arguments):
    """Optimizer: AdamW and the learning rate's schedule."""

    max_steps: Integer = Field(-1, description="Optimizer steps of the whole run; must be given.")
    optim: Literal["adamw"] = Field("adamw", description="The optimizer.")
    learning_rate: Number = Field(5e-5, ge=0, description="Highest learning rate.")
    min_learning_rate: Number = Field(1e-5, ge=0, description="Learning rate after the decay.")
    lr_scheduler_type: Literal["linear", "cosine"] = Field(
        "linear", description="Shape of the decay from learning_rate to min_learning_rate."
    )
    warmup_steps: Integer = Field(
        0, ge=0, description="Steps of linear rise at the start; 0 lets warmup_ratio say."
    )
    warmup_ratio: Number = Field(
        0.0, ge=0, le=1, description="The same as a share of max_steps; warmup_steps > 0 wins."
    )
    decay_steps: Integer | None = Field(
        None, gt=0, description="Step at which min_learning_rate is reached; by default max_steps."
    )
    weight_decay: Number = Field(
        0.0, ge=0, description="Weight decay of matrices; biases and norms have none."
    )
    adam_beta1: Number = Field(0.9, ge=0, lt=1, description="Decay of AdamW's first moment.")
    adam_beta2: Number = Field(0.999, ge=0, lt=1, description="Decay of AdamW's second moment.")
    adam_epsilon: Number = Field(1e-8, gt=0, description="AdamW's epsilon.")
    max_grad_norm: Number = Field(
        1.0,
        description="Gradients are scaled down to this global norm; 0 or less leaves them.",
    )

    @property
    def warmup(self) -> float:
        """Steps of warm-up, a fraction where warmup_ratio × max_steps is one."""
        return float(self.warmup_steps or self.warmup_ratio * self.max_steps)


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
