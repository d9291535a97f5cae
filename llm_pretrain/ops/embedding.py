"""A table of vectors."""

from __future__ import annotations

import paddle
from paddle import Tensor
from paddle.nn import functional as F

from llm_pretrain.ops.native import linear as native
from llm_pretrain.ops.operator import Draw, Operator

EMBEDDING = Operator("embedding", cpp=native)


@EMBEDDING.reference
def embedding(ids: Tensor, table: Tensor) -> Tensor:
    """The rows of `table` that `ids` name.

    Args:
        ids: integers [...].
        table: [V, H].

    Returns:
        [..., H].
    """
    return F.embedding(ids, table)


@EMBEDDING.self_test
def _example(draw: Draw) -> list[Tensor]:
    table = draw(9, 16)
    y = embedding(paddle.to_tensor([[1, 8, 1], [0, 1, 3]]), table)
    return draw.with_gradients([y], [table])
