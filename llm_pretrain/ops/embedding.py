"""A table of vectors."""

from __future__ import annotations

from paddle import Tensor
from paddle.nn import functional as F

from llm_pretrain.ops import dispatch
from llm_pretrain.ops.native.embedding import Embedding


def embedding(ids: Tensor, table: Tensor) -> Tensor:
    """The rows of `table` that `ids` name.

    Args:
        ids: integers [...].
        table: [V, H].

    Returns:
        [..., H].
    """
    if dispatch.is_native("embedding", table) and ids.size:
        return Embedding.apply(ids, table)
    return F.embedding(ids, table)
