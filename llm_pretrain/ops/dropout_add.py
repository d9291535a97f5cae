"""The end of a residual branch."""

from __future__ import annotations

from paddle import Tensor
from paddle.nn import functional as F


def dropout_add(branch: Tensor, x: Tensor, dropout: float, *, training: bool) -> Tensor:
    """x + dropout(branch), added in float32.

    Args:
        branch, x: one shape.
        dropout: the probability with which a value is left out while training; the others are
            divided by 1 - dropout.

    Returns:
        The shape and dtype of `x`.
    """
    kept = F.dropout(branch, dropout, training=training) if dropout else branch
    return (x.astype("float32") + kept.astype("float32")).astype(x.dtype)
