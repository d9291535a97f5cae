"""The operators of the models. Each is defined by its docstring."""

from __future__ import annotations

from llm_pretrain.ops.activation import activation
from llm_pretrain.ops.adamw import Rates, adamw_
from llm_pretrain.ops.attention import attention, take_heads
from llm_pretrain.ops.cross_entropy import cross_entropy
from llm_pretrain.ops.dropout_add import add, dropout, dropout_add
from llm_pretrain.ops.flash_attention import flash_attention
from llm_pretrain.ops.linear import linear, linears
from llm_pretrain.ops.norm import layer_norm, normalise_columns, rms_norm
from llm_pretrain.ops.rotary import rotary
from llm_pretrain.ops.scale_gradient import scale_gradient

__all__ = [
    "Rates",
    "activation",
    "adamw_",
    "add",
    "attention",
    "cross_entropy",
    "dropout",
    "dropout_add",
    "flash_attention",
    "layer_norm",
    "linear",
    "linears",
    "normalise_columns",
    "rms_norm",
    "rotary",
    "scale_gradient",
    "take_heads",
]
