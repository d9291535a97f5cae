"""The operators of the models. Each is defined by its docstring."""

from __future__ import annotations

from llm_pretrain.ops.adamw import ADAMW, SUM_OF_SQUARES, adamw_, sum_of_squares
from llm_pretrain.ops.attention import ATTENTION, attention, repeat_heads
from llm_pretrain.ops.elementwise import ACTIVATION, ROTARY, activation, rotary
from llm_pretrain.ops.flash_attention import flash_attention
from llm_pretrain.ops.gradients import scale_gradient
from llm_pretrain.ops.linear import EMBEDDING, LINEAR, embedding, linear, linears
from llm_pretrain.ops.linear_cross_entropy import (
    LINEAR_CROSS_ENTROPY,
    cross_entropy,
    linear_cross_entropy_gradients,
    linear_log_sums,
    serves_head,
)
from llm_pretrain.ops.native.library import buffer, give_back_memory
from llm_pretrain.ops.native.operands import drop_weights, hold_weights
from llm_pretrain.ops.norm import (
    NORM,
    add,
    add_layer_norm,
    add_rms_norm,
    layer_norm,
    normalise_columns,
    rms_norm,
)
from llm_pretrain.ops.random_bits import dropout

__all__ = [
    "OPERATORS",
    "activation",
    "adamw_",
    "add",
    "add_layer_norm",
    "add_rms_norm",
    "attention",
    "buffer",
    "cross_entropy",
    "drop_weights",
    "dropout",
    "embedding",
    "flash_attention",
    "give_back_memory",
    "hold_weights",
    "layer_norm",
    "linear",
    "linear_cross_entropy_gradients",
    "linear_log_sums",
    "linears",
    "normalise_columns",
    "repeat_heads",
    "rms_norm",
    "rotary",
    "scale_gradient",
    "serves_head",
    "sum_of_squares",
]

OPERATORS = {
    operator.name: operator
    for operator in (
        LINEAR,
        NORM,
        ROTARY,
        ACTIVATION,
        ATTENTION,
        EMBEDDING,
        LINEAR_CROSS_ENTROPY,
        SUM_OF_SQUARES,
        ADAMW,
    )
}
"""By name, those that have faster implementations, in the order of the log."""
