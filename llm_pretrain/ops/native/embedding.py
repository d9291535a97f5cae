"""A table of vectors, with its gradient in C++."""

from __future__ import annotations

from typing import Any

from paddle import Tensor
from paddle.autograd import PyLayer
from paddle.nn import functional as F

from llm_pretrain.ops.gradients import sum_of_gradients
from llm_pretrain.ops.native import memory
from llm_pretrain.ops.native.library import call, declare, packed, serves

declare(embedding_backward="nnnppipii")


def embedding(ids: Tensor, table: Tensor) -> Tensor:
    """`ops.embedding`."""
    return _Embedding.apply(ids, table) if ids.size and serves(table) else NotImplemented


class _Embedding(PyLayer):
    @staticmethod
    def forward(ctx: Any, ids: Tensor, table: Tensor) -> Tensor:
        ctx.save_for_backward(ids, table)
        return F.embedding(ids, table)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        ids, table = ctx.saved_tensor()
        if table.stop_gradient:
            return None, None
        total = sum_of_gradients(table)
        dtable, has_values = total or (memory.empty(table.shape, table.dtype), False)
        call("embedding_backward", ids.size, *table.shape, packed(ids.astype("int64")), packed(dy),
             dy.dtype, dtable, dtable.dtype, has_values)  # fmt: skip
        return None, dtable if total is None else None
