"""Dropout (Srivastava et al., JMLR 15, 2014)."""

from __future__ import annotations

import numpy as np
from paddle import Tensor

from llm_pretrain.ops.random_bits import keep


def dropout(x: Tensor, probability: float, rows: Tensor) -> Tensor:
    """Leave out values with `probability` and divide the others by 1 - probability, in float32.

    Args:
        x: [..., H].
        rows: int64 [...], from `random_bits.rows`; they choose what is left out.

    Returns:
        The shape and dtype of `x`.
    """
    kept = keep(rows, np.arange(x.shape[-1]), probability).astype("float32")
    return (x.astype("float32") * kept.scale_(1 / (1 - probability))).astype(x.dtype)
