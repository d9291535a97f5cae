"""Addition of what may have two types: the residual stream and a branch."""

from __future__ import annotations

from paddle import Tensor

from llm_pretrain.ops import dispatch
from llm_pretrain.ops.native.add import Add


def add(x: Tensor, y: Tensor) -> Tensor:
    """x + y, added in float32, in the dtype of `x`.

    It is tried and chosen with the norms, most of which add a branch first: `use_fused_rms_norm`.
    """
    if x.shape == y.shape and dispatch.is_native("norm", x, y):
        return Add.apply(x, y)
    return (x.astype("float32") + y.astype("float32")).astype(x.dtype)
