"""The gated activation of LLaMA (Shazeer, arXiv:2002.05202)."""

from __future__ import annotations

from paddle import Tensor
from paddle.nn import functional as F

from llm_pretrain.ops.precision import in_float32_on_cpu


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """gate · sigmoid(gate) · up, elementwise on tensors of one shape and dtype."""
    return in_float32_on_cpu(F.swiglu, gate, up)
