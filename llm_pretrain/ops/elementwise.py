"""The activations of the feed-forward layers, and rotary position embedding."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import paddle
from paddle import Tensor
from paddle.autograd import PyLayer
from paddle.nn import functional as F

from llm_pretrain.ops import paddle_elementwise
from llm_pretrain.ops.cuda import elementwise as cuda
from llm_pretrain.ops.native import elementwise as native
from llm_pretrain.ops.operator import Draw, Operator, Work, in_float32_on_cpu
from llm_pretrain.ops.workload import Workload

ACTIVATION = Operator("activation", cpp=native, cuda=cuda)

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate=True),
    "relu": F.relu,
}


@ACTIVATION.reference
def activation(name: str, x: Tensor, up: Tensor | None = None) -> Tensor:
    """f(x), or f(x) · up (Shazeer, arXiv:2002.05202), elementwise.

    Args:
        name: "silu", "gelu" (exact), "gelu_tanh" (its approximation by tanh) or "relu".
        x, up: of one shape and dtype.
    """
    if up is None:
        return in_float32_on_cpu(_ACTIVATIONS[name], x)
    if name == "silu":
        return in_float32_on_cpu(F.swiglu, x, up)
    return in_float32_on_cpu(lambda x, up: _ACTIVATIONS[name](x) * up, x, up)


@ACTIVATION.self_test
def _activation_example(draw: Draw) -> list[Tensor]:
    x, up = draw(3, 40), draw(3, 40)
    kinds = ("silu", "gelu", "gelu_tanh")
    outputs = [activation(kind, x, up) for kind in kinds] + [activation("relu", x)]
    return draw.with_gradients(outputs, [x, up])


@ACTIVATION.work_of_a_run
def _activation_work(draw: Draw, of: Workload) -> Work:
    shape = of.samples, of.positions, of.intermediate
    operands = [draw.large(of.compute_dtype, *shape) for _ in range(1 + of.is_gated)]
    return draw.work(lambda *operands: [activation(of.activation, *operands)], *operands)


ROTARY = Operator(
    "rotary", switch="use_fused_rope", cpp=native, cuda=cuda, paddle=paddle_elementwise
)


@ROTARY.reference
def rotary(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *, spans: int = 1
) -> tuple[Tensor, Tensor]:
    """Rotate queries and keys by their positions, in float32.

    The leading R dimensions of a head are cut into equal spans, and a span's first half is paired
    with its second: (a, b) becomes (a cos - b sin, b cos + a sin). With R/2 spans neighbours are
    paired. What is left of a head stays.

    Args:
        q: [B, S, N, D].
        k: [B, S, K, D].
        cos, sin: float32 [S, R] or [B, S, R], both halves of a span alike.
        spans: how many.

    Returns:
        Tensors like `q` and `k`.
    """
    first, second = paddle.split(sin.reshape([*sin.shape[:-1], spans, 2, -1]), 2, axis=-2)
    signed_sin = paddle.concat([-first, second], axis=-2).reshape(sin.shape)
    return _Rotate.apply(q, cos, signed_sin, spans), _Rotate.apply(k, cos, signed_sin, spans)


class _Rotate(PyLayer):
    """The gradient is rotated by the opposite angle."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, signed_sin: Tensor, spans: int) -> Tensor:
        ctx.save_for_backward(cos, signed_sin)
        ctx.spans = spans
        return _rotate(x, cos, signed_sin, spans)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        cos, signed_sin = ctx.saved_tensor()
        return _rotate(dy, cos, -signed_sin, ctx.spans)


def _rotate(x_BSND: Tensor, cos: Tensor, signed_sin: Tensor, spans: int) -> Tensor:
    B, S, N, D = x_BSND.shape
    R = cos.shape[-1]
    if R < D:
        turned, rest = paddle.split(x_BSND, [R, D - R], axis=-1)
        return paddle.concat([_rotate(turned, cos, signed_sin, spans), rest], axis=-1)
    x32 = x_BSND.astype("float32")
    swapped = paddle.roll(x32.reshape([B, S, N * spans, D // spans]), D // spans // 2, axis=-1)
    # Tables as wide as all heads: broadcasting in the middle of a shape is slow on CPU.
    cos, sin = (paddle.tile(table, [1] * (table.ndim - 1) + [N]) for table in (cos, signed_sin))
    rotated = x32.reshape([B, S, N * D]) * cos
    rotated.add_(swapped.reshape([B, S, N * D]).multiply_(sin))
    return rotated.astype(x_BSND.dtype).reshape(x_BSND.shape)


@ROTARY.self_test
def _rotary_example(draw: Draw) -> list[Tensor]:
    q, k = draw(2, 5, 4, 16), draw(2, 5, 2, 16)
    cos, sin = (draw.in_float32(5, 8).detach().tile([1, 2]) for _ in range(2))
    return draw.with_gradients(list(rotary(q, k, cos, sin)), [q, k])


@ROTARY.work_of_a_run
def _rotary_work(draw: Draw, of: Workload) -> Work | None:
    if not of.turned:
        return None
    q, k = (
        draw.large(of.compute_dtype, of.samples, of.attended, heads, of.head_size)
        for heads in (of.heads, of.key_heads)
    )
    spans = of.turned // 2 if of.pairs_neighbours else 1
    angles = draw.large("float32", of.attended, spans, 1, of.turned // spans // 2).detach()
    angles = angles.tile([1, 1, 2, 1]).reshape([of.attended, of.turned])
    cos, sin = angles.cos(), angles.sin()
    return draw.work(lambda q, k: [*rotary(q, k, cos, sin, spans=spans)], q, k)
