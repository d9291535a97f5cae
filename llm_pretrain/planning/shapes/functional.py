"""paddle.nn.functional, as far as the program uses it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from llm_pretrain.planning.shapes import operators as ops
from llm_pretrain.planning.shapes.autograd import record
from llm_pretrain.planning.shapes.movement import moved, unsqueeze
from llm_pretrain.planning.shapes.storage import DTYPES, recorder
from llm_pretrain.planning.shapes.tensor import Tensor, UnknownToShapesError, new
from llm_pretrain.planning.trace import AttentionProduct

silu, gelu = ops.unary("silu", "input"), ops.unary("gelu", "input")
relu = ops.unary("relu", "output")
softmax_, thresholded_relu_ = ops.in_place("softmax"), ops.in_place("thresholded_relu")

Gradients = Sequence[Tensor | None]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    y = ops.matmul(x, weight)
    return y if bias is None else ops.add(y, bias)


def swiglu(x: Tensor, gate: Tensor) -> Tensor:
    y = new(x.shape, x.dtype)
    moved("swiglu", x, gate, y)

    def backward(saved: list[Any], dys: Gradients) -> Gradients:
        dx, dgate = (new(each.shape, each.dtype) for each in saved)
        moved("swiglu gradient", *saved, dx, dgate)
        return dx, dgate

    record("swiglu", [x, gate], [y], backward, [x, gate])
    return y


def layer_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor, bias: Tensor, epsilon: float
) -> Tensor:
    rows = x.size // math.prod(shape)
    y = new(x.shape, x.dtype)
    mean, variance = (new([rows], "float32") for _ in range(2))
    moved("layer_norm", x, y)

    def backward(saved: list[Any], dys: Gradients) -> Gradients:
        gradients = [new(each.shape, each.dtype) for each in saved[:3]]
        moved("layer_norm gradient", *saved, *gradients)
        return gradients

    record("layer_norm", [x, weight, bias], [y], backward, [x, weight, bias, mean, variance])
    return y


def rms_norm(x: Tensor, shape: Sequence[int], weight: Tensor, epsilon: float) -> Any:
    rows = x.size // math.prod(shape)
    y, inverse = new(x.shape, x.dtype), new([rows], "float32")
    moved("rms_norm", x, y)

    def backward(saved: list[Any], dys: Gradients) -> Gradients:
        gradients = [new(each.shape, each.dtype) for each in saved[:2]]
        moved("rms_norm gradient", *saved, *gradients)
        return gradients

    record("rms_norm", [x, weight], [y], backward, [x, weight, inverse])
    return y, inverse


def embedding(ids: Tensor, table: Tensor) -> Tensor:
    y = new([*ids.shape, table.shape[-1]], table.dtype)
    moved("embedding", y, y)

    def backward(saved: list[Any], dys: Gradients) -> Gradients:
        table = saved[1]
        dtable = new(table.shape, table.dtype)
        moved("embedding gradient", dtable)
        return None, dtable

    record("embedding", [ids, table], [y], backward, [ids, table])
    return y


def one_hot(ids: Tensor, width: int) -> Tensor:
    y = new([*ids.shape, width], "float32")
    moved("one_hot", y)
    return y


def cross_entropy(logits: Tensor, labels: Tensor, *, ignore_index: int, reduction: str) -> Tensor:
    if reduction != "none":
        raise UnknownToShapesError("cross_entropy but of each token")
    labels = unsqueeze(labels, -1)
    softmax, losses = new(logits.shape, logits.dtype), new(labels.shape, logits.dtype)
    moved("cross_entropy", logits, softmax)

    def backward(saved: list[Any], dys: Gradients) -> Gradients:
        dlogits = new(saved[1].shape, saved[1].dtype)
        moved("cross_entropy gradient", saved[1], dlogits)
        return None, dlogits

    record("cross_entropy", [labels, logits], [losses], backward, [labels, softmax])
    return losses


def flash_attention(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> tuple[Tensor, None]:
    """Paddle's kernel on a GPU: it keeps a row's log-sum-exp, and two numbers of dropout."""
    B, S, N, D = q.shape
    y = new(q.shape, q.dtype)
    log_sums = new([B, N, -(-S // 128) * 128], "float32")
    sizes = (B, N, k.shape[2], S, k.shape[1], D, q.dtype.name, causal)
    recorder.events.append(AttentionProduct(*sizes))

    def backward(saved: list[Any], dys: Gradients) -> Gradients:
        q, k, v, *_ = saved
        # The kernel adds up in float32, and has a row's correction.
        sums = new([B, N, -(-S // 128) * 128, -(-D // 32) * 32], "float32")
        corrections = new(saved[4].shape, "float32")
        gradients = [new(each.shape, each.dtype) for each in (q, k, v)]
        wide = k.shape[2] != N and [new([*k.shape[:2], N, D], k.dtype) for _ in range(2)]
        recorder.events.append(AttentionProduct(*sizes, is_backward=True))
        del sums, corrections, wide
        return gradients

    record("flash_attention", [q, k, v], [y], backward, [q, k, v, y, log_sums])
    return y, None


def flashmask_attention(
    q: Tensor, k: Tensor, v: Tensor, first_blind: Tensor, *, causal: bool
) -> Tensor:
    return flash_attention(q, k, v, causal=causal)[0]


def fused_rotary_position_embedding(
    q: Tensor, k: Tensor, *, sin: Tensor, cos: Tensor, use_neox_rotary_style: bool
) -> tuple[Tensor, ...]:
    turned = [new(x.shape, x.dtype) for x in (q, k)]
    moved("rotary", q, k, *turned)

    def backward(saved: list[Any], dys: Gradients) -> Gradients:
        gradients = [new(x.shape, DTYPES["float32"]) for x in turned_shapes]
        moved("rotary gradient", *gradients)
        return gradients

    class _Shape:
        def __init__(self, x: Tensor) -> None:
            self.shape = x.shape

    turned_shapes = [_Shape(x) for x in turned]
    record("rotary", [q, k], turned, backward, [sin, cos])
    return tuple(turned)
