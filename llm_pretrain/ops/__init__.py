"""The operators of the models. Each is defined by its docstring."""

from __future__ import annotations

from llm_pretrain.ops.attention import attention, take_heads
from llm_pretrain.ops.cross_entropy import cross_entropy
from llm_pretrain.ops.dropout_add import dropout, dropout_add
from llm_pretrain.ops.linear import linear
from llm_pretrain.ops.norm import rms_norm
from llm_pretrain.ops.rotary import rotary
from llm_pretrain.ops.swiglu import swiglu

__all__ = [
    "attention",
    "cross_entropy",
    "dropout",
    "dropout_add",
    "linear",
    "rms_norm",
    "rotary",
    "swiglu",
    "take_heads",
]
