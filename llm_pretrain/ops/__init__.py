"""The operators of the models. Each is defined by its docstring."""

from __future__ import annotations

from llm_pretrain.ops.activation import activation
from llm_pretrain.ops.adamw import Rates, adamw_
from llm_pretrain.ops.add import add
from llm_pretrain.ops.attention import attention, repeat_heads
from llm_pretrain.ops.cross_entropy import cross_entropy
from llm_pretrain.ops.dropout import dropout
from llm_pretrain.ops.embedding import embedding
from llm_pretrain.ops.flash_attention import flash_attention
from llm_pretrain.ops.linear import linear, linears
from llm_pretrain.ops.linear_cross_entropy import (
    head_is_native,
    linear_cross_entropy_gradients,
    linear_log_sums,
)
from llm_pretrain.ops.norm import (
    add_layer_norm,
    add_rms_norm,
    layer_norm,
    normalise_columns,
    rms_norm,
)
from llm_pretrain.ops.rotary import rotary
from llm_pretrain.ops.scale_gradient import scale_gradient
from llm_pretrain.ops.sum_of_squares import sum_of_squares

__all__ = [
    "Rates",
    "activation",
    "adamw_",
    "add",
    "add_layer_norm",
    "add_rms_norm",
    "attention",
    "cross_entropy",
    "dropout",
    "embedding",
    "flash_attention",
    "head_is_native",
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
    "sum_of_squares",
]
