"""Scaled dot-product attention (Vaswani et al., arXiv:1706.03762).

Shapes: B batch, S sequence, N query heads, K key and value heads, D head size, G = N / K query
heads of a group, R positions of a block, T the positions that a block sees.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import paddle
from numpy.typing import NDArray
from paddle import Tensor
from paddle.autograd import PyLayer
from paddle.nn import functional as F

from llm_pretrain.ops import paddle_attention, paddle_flashmask
from llm_pretrain.ops.cuda import attention as cuda
from llm_pretrain.ops.gradients import for_trained, note_trained
from llm_pretrain.ops.mask import Mask
from llm_pretrain.ops.native import attention as native
from llm_pretrain.ops.operator import Draw, Operator, in_float32_on_cpu, to_compute_dtype
from llm_pretrain.ops.random_bits import dropout as random_dropout

ATTENTION = Operator(
    "attention",
    switch="use_flash_attention",
    cpp=native,
    cuda=cuda,
    paddle=paddle_attention,
    hopper=paddle_flashmask,
)

_MOST_BLOCKS = 8
_FEWEST_ROWS = 128


@ATTENTION.reference
def attention(
    q_BSND: Tensor,
    k_BSKD: Tensor,
    v_BSKD: Tensor,
    mask: Mask,
    *,
    dropout: float = 0.0,
    numbers_BNS: Tensor | None = None,
) -> Tensor:
    """softmax(Q Kᵀ / sqrt(D) + mask) V, with the softmax in float32.

    Args:
        q_BSND: queries [B, S, N, D].
        k_BSKD, v_BSKD: keys and values [B, S, K, D]; each serves N / K consecutive query heads.
        mask: what a position sees.
        dropout: of the probabilities.
        numbers_BNS: int64 [B, N, S], from `random_bits.numbers_of_heads`; with the keys' positions
            they choose what dropout leaves out. Needed where there is dropout.

    Returns:
        [B, S, N, D] in the compute dtype.
    """
    q, k, v = (to_compute_dtype(x) for x in (q_BSND, k_BSKD, v_BSKD))
    return in_float32_on_cpu(
        lambda q, k, v: _Attention.apply(q, k, v, mask, dropout, numbers_BNS), q, k, v
    )


@ATTENTION.self_test
def _example(draw: Draw) -> list[Tensor]:
    rows = np.arange(40)[None].repeat(2, axis=0)
    by_head_size = {
        64: (Mask(), Mask(prefix_ends=rows // 13 * 13 + 7, document_starts=rows // 13 * 13)),
        80: (Mask(slopes=np.array([0.5, 0.125], np.float32)),),
        96: (Mask(),),
        128: (Mask(),),
    }
    found = []
    for size, masks in by_head_size.items():
        q, k, v = (draw(2, 40, heads, size) for heads in (2, 1, 1))
        outputs = [attention(q, k, v, mask) for mask in masks]
        found += draw.with_gradients(outputs, [q, k, v])
    return found


def repeat_heads(x_BSKD: Tensor, times: Sequence[int]) -> Tensor:
    """Head i repeated `times[i]` times, at least once, [B, S, sum(times), D]."""
    return _RepeatHeads.apply(x_BSKD, times)


class _RepeatHeads(PyLayer):
    """The gradients of one head's copies are added up in float32."""

    @staticmethod
    def forward(ctx: Any, x_BSKD: Tensor, times: Sequence[int]) -> Tensor:
        ctx.times = list(times)
        heads = paddle.split(x_BSKD, len(times), axis=2)
        return paddle.concat(
            [head for head, n in zip(heads, times, strict=True) for _ in range(n)], axis=2
        )

    @staticmethod
    def backward(ctx: Any, dy_BSND: Tensor) -> Tensor:
        copies = paddle.split(dy_BSND.astype("float32"), ctx.times, axis=2)
        sums = [copy.sum(2, keepdim=True) for copy in copies]
        return paddle.concat(sums, axis=2).astype(dy_BSND.dtype)


class _Attention(PyLayer):
    """Block by block of query rows, so that most of what the causal mask hides is not computed.

    The query heads of a group are rows of one product with their keys. With P the probabilities,
    P' what dropout leaves of them, and O = P' V:
    dV = P'ᵀ dO;  dS = P' · (dO Vᵀ) - P · rowsum(dO · O);  dQ = dS K;  dK = dSᵀ Q.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q_BSND: Tensor,
        k_BSKD: Tensor,
        v_BSKD: Tensor,
        mask: Mask,
        dropout: float,
        numbers_BNS: Tensor | None,
    ) -> Tensor:
        note_trained(ctx, q_BSND, k_BSKD, v_BSKD)
        length = q_BSND.shape[1]
        sizes = _block_sizes(length)
        seen = _blocks_seen(sizes, mask)
        positions = np.split(np.arange(length), np.cumsum(sizes)[:-1])
        scale = 1 / math.sqrt(q_BSND.shape[-1])
        groups = q_BSND.shape[2] // k_BSKD.shape[2]
        queries = split_queries(q_BSND * scale, groups, sizes)
        keys, values = split_keys(k_BSKD, sizes), split_keys(v_BSKD, sizes)
        outputs, probabilities, kept = [], [], []
        for i, q in enumerate(queries):
            scores = paddle.matmul(
                rows_of_group(q), _first(keys, seen[i]), transpose_y=True
            ).astype("float32")
            bias = mask.bias(positions[i], np.arange(scores.shape[-1]))
            if bias is not None:
                by_head = scores.reshape([*q.shape[:4], -1])
                scores = rows_of_group(by_head.add_(by_group(bias, groups).expand_as(by_head)))
            probabilities.append(F.softmax_(scores, axis=-1))
            kept.append(probabilities[-1])
            if dropout:
                assert numbers_BNS is not None
                numbers = numbers_of_block(numbers_BNS, groups, positions[i])
                kept[-1] = random_dropout(kept[-1], dropout, numbers)
            output = paddle.matmul(kept[-1].astype(q.dtype), _first(values, seen[i]))
            outputs.append(output.reshape(q.shape))
        ctx.save_for_backward(*queries, *keys, *values, *outputs, *probabilities, *kept)
        ctx.sizes, ctx.seen = sizes, seen
        ctx.scale, ctx.groups, ctx.dropout = scale, groups, dropout
        return join_queries(outputs)

    @staticmethod
    def backward(ctx: Any, do_BSND: Tensor) -> tuple[Tensor | None, ...]:
        saved, n = ctx.saved_tensor(), len(ctx.sizes)
        queries, keys, values, outputs, probabilities, kept = (
            saved[start : start + n] for start in range(0, 6 * n, n)
        )
        dqueries = []
        dkeys, dvalues = (
            [paddle.zeros_like(x, dtype="float32") for x in blocks] for blocks in (keys, values)
        )
        for i, do in enumerate(split_queries(do_BSND, ctx.groups, ctx.sizes)):
            correction = do.astype("float32") * outputs[i].astype("float32")
            correction = rows_of_group(correction.sum(-1, keepdim=True))
            q, do = rows_of_group(queries[i]), rows_of_group(do)
            seen = ctx.seen[i]
            dv = paddle.matmul(kept[i].astype(do.dtype), do, transpose_x=True)
            _add_to_first(dvalues, seen, dv)
            ds = paddle.matmul(do, _first(values, seen), transpose_y=True).astype("float32")
            if ctx.dropout:
                ds.multiply_(kept[i]).subtract_(probabilities[i] * correction)
            else:
                ds.subtract_(correction).multiply_(probabilities[i])
            ds = ds.astype(do.dtype)
            _add_to_first(dkeys, seen, paddle.matmul(ds, q, transpose_x=True))
            dqueries.append(paddle.matmul(ds, _first(keys, seen)).reshape(queries[i].shape))
        dk_BSKD, dv_BSKD = (join_keys(x).astype(do_BSND.dtype) for x in (dkeys, dvalues))
        return for_trained(ctx, join_queries(dqueries) * ctx.scale, dk_BSKD, dv_BSKD)


def _block_sizes(length: int) -> list[int]:
    """Query rows of every block. Few large blocks: each costs some launches."""
    rows = max(_FEWEST_ROWS, -(-length // _MOST_BLOCKS))
    full, rest = divmod(length, rows)
    return [rows] * full + [rest] * (rest > 0)


def _blocks_seen(sizes: list[int], mask: Mask) -> list[int]:
    """How many of the blocks of keys, from the first, each block of queries sees a part of."""
    ends = np.cumsum(sizes)
    blocks = np.split(np.arange(sum(sizes)), ends[:-1])
    return [1 + int(np.searchsorted(ends, mask.seen_ends(block).max())) for block in blocks]


def by_group(bias: Tensor, groups: int) -> Tensor:
    """A bias [B or 1, N or 1, R, T] for scores [B, K, G, R, T]."""
    heads = bias.shape[1]
    if heads == 1:
        return bias.unsqueeze(2)
    return bias.reshape([bias.shape[0], heads // groups, groups, *bias.shape[2:]])


def numbers_of_block(numbers_BNS: Tensor, groups: int, positions: NDArray[np.int64]) -> Tensor:
    """The numbers of consecutive positions, [B, K, G·R]."""
    B, N, _ = numbers_BNS.shape
    block = numbers_BNS[:, :, int(positions[0]) : int(positions[-1]) + 1]
    return block.reshape([B, N // groups, groups * len(positions)])


def rows_of_group(x_BKGRX: Tensor) -> Tensor:
    """The rows of all heads of a group one after another, [B, K, G·R, X]."""
    return x_BKGRX.reshape([*x_BKGRX.shape[:2], -1, x_BKGRX.shape[-1]])


# Paddle's einsum and split copy with fast kernels where transpose and slicing make strided views,
# whose later copy is ten times slower on CPU.
def split_queries(x_BSND: Tensor, groups: int, sizes: list[int]) -> list[Tensor]:
    """Blocks of rows, [B, K, G, R, D] each."""
    B, S, N, D = x_BSND.shape
    x_BSKGD = x_BSND.reshape([B, S, N // groups, groups, D])
    return paddle.split(paddle.einsum("bskgd->bkgsd", x_BSKGD), sizes, axis=3)


def join_queries(blocks_BKGRD: list[Tensor]) -> Tensor:
    x_BSKGD = paddle.einsum("bkgsd->bskgd", paddle.concat(blocks_BKGRD, axis=3))
    B, S, K, G, D = x_BSKGD.shape
    return x_BSKGD.reshape([B, S, K * G, D])


def split_keys(x_BSKD: Tensor, sizes: list[int]) -> list[Tensor]:
    """Blocks of positions, [B, K, R, D] each."""
    return paddle.split(paddle.einsum("bskd->bksd", x_BSKD), sizes, axis=2)


def join_keys(blocks_BKRD: list[Tensor]) -> Tensor:
    return paddle.einsum("bksd->bskd", paddle.concat(blocks_BKRD, axis=2))


def _first(blocks_BKRD: list[Tensor], count: int) -> Tensor:
    """The positions of the first blocks, [B, K, T, D]."""
    return blocks_BKRD[0] if count == 1 else paddle.concat(blocks_BKRD[:count], axis=2)


def _add_to_first(sums_BKRD: list[Tensor], count: int, x_BKTD: Tensor) -> None:
    sizes = [block.shape[2] for block in sums_BKRD[:count]]
    for total, part in zip(sums_BKRD, paddle.split(x_BKTD, sizes, axis=2), strict=False):
        total.add_(part.astype("float32"))
