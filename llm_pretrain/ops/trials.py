"""Each operator on a small input, by what serves it now and by its reference, before a run relies
on it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import paddle
from numpy.typing import NDArray
from paddle import Tensor

from llm_pretrain.ops import dispatch
from llm_pretrain.ops.activation import activation
from llm_pretrain.ops.adamw import Rates, adamw_
from llm_pretrain.ops.add import add
from llm_pretrain.ops.attention import attention
from llm_pretrain.ops.embedding import embedding
from llm_pretrain.ops.linear import linears
from llm_pretrain.ops.linear_cross_entropy import linear_cross_entropy_gradients, linear_log_sums
from llm_pretrain.ops.mask import Mask
from llm_pretrain.ops.norm import add_rms_norm, layer_norm, rms_norm
from llm_pretrain.ops.rotary import rotary
from llm_pretrain.ops.sum_of_squares import sum_of_squares

_BOUNDS = {"float32": 1e-5, "bfloat16": 3e-2, "float16": 4e-3}
"""Largest difference, relative to the largest value."""

Trial = Callable[[], None]


def trials_in(dtype: str) -> dict[str, Trial]:
    """By operator, a function that raises ArithmeticError where it and its reference disagree.

    Args:
        dtype: "float32", "bfloat16" or "float16", of the activations.
    """
    runs: dict[str, Callable[[_Draw], list[Tensor]]] = {
        "linear": _linear,
        "norm": _norm,
        "rotary": _rotary,
        "activation": _activation,
        "attention": _attention,
        "embedding": _embedding,
        "linear_cross_entropy": _linear_cross_entropy,
    }
    in_float32 = {"sum_of_squares": _sum_of_squares, "adamw": _adamw}
    return {
        **{operator: partial(_compare, operator, run, dtype) for operator, run in runs.items()},
        **{
            operator: partial(_compare, operator, run, "float32")
            for operator, run in in_float32.items()
        },
    }


class _Draw:
    """Numbers for one run of a trial, the same for each run, and other ones for every operand.

    Paddle's generator, which training draws from, is left alone.
    """

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype
        self.random = np.random.default_rng(1)

    def __call__(self, *shape: int) -> Tensor:
        return self._tensor(shape, self.dtype)

    def in_float32(self, *shape: int) -> Tensor:
        return self._tensor(shape, "float32")

    def _tensor(self, shape: tuple[int, ...], dtype: str) -> Tensor:
        values = self.random.standard_normal(shape, dtype=np.float32)
        tensor = paddle.to_tensor(values).astype(dtype)
        tensor.stop_gradient = False
        return tensor


def _compare(operator: str, run: Callable[[_Draw], list[Tensor]], dtype: str) -> None:
    found = _values(run(_Draw(dtype)))
    with dispatch.reference_of(operator):
        expected = _values(run(_Draw(dtype)))
    for ours, theirs in zip(found, expected, strict=True):
        bound = _BOUNDS[dtype] * max(float(np.abs(theirs).max()), 1e-3)
        error = float(np.abs(ours - theirs).max())
        if not error <= bound:
            raise ArithmeticError(f"it is off by {error:.1e}, and {bound:.1e} is allowed")


def _values(tensors: list[Tensor]) -> list[NDArray[np.float32]]:
    return [tensor.astype("float32").numpy() for tensor in tensors]


def _with_gradients(draw: _Draw, outputs: list[Tensor], operands: list[Tensor]) -> list[Tensor]:
    total = sum((y.astype("float32") * draw.in_float32(*y.shape)).sum() for y in outputs)
    paddle.autograd.backward([total])
    return [*outputs, *(operand.grad for operand in operands)]


def _linear(draw: _Draw) -> list[Tensor]:
    x, weights = draw(2, 5, 24), [draw(24, 32), draw(24, 8)]
    bias = draw(8)
    # Large products take other ways than small ones.
    large, weight = draw(304, 320), draw(320, 336)
    outputs = [*linears(x, weights, [None, bias]), *linears(large, [weight], [None])]
    return _with_gradients(draw, outputs, [x, *weights, bias, large, weight])


def _norm(draw: _Draw) -> list[Tensor]:
    x, weight, bias = draw(2, 5, 48), draw(48), draw(48)
    branch = draw(2, 5, 48)
    outputs = [rms_norm(x, weight, 1e-5), layer_norm(x, weight, bias, 1e-5)]
    outputs += [*add_rms_norm(x, branch, weight, 1e-5), add(x, branch)]
    return _with_gradients(draw, outputs, [x, weight, bias])


def _rotary(draw: _Draw) -> list[Tensor]:
    q, k = draw(2, 5, 4, 16), draw(2, 5, 2, 16)
    cos, sin = (draw.in_float32(5, 8).detach().tile([1, 2]) for _ in range(2))
    return _with_gradients(draw, list(rotary(q, k, cos, sin)), [q, k])


def _activation(draw: _Draw) -> list[Tensor]:
    x, up = draw(3, 40), draw(3, 40)
    kinds = ("silu", "gelu", "gelu_tanh")
    outputs = [activation(kind, x, up) for kind in kinds] + [activation("relu", x)]
    return _with_gradients(draw, outputs, [x, up])


def _attention(draw: _Draw) -> list[Tensor]:
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
        found += _with_gradients(draw, outputs, [q, k, v])
    return found


def _embedding(draw: _Draw) -> list[Tensor]:
    table = draw(9, 16)
    y = embedding(paddle.to_tensor([[1, 8, 1], [0, 1, 3]]), table)
    return _with_gradients(draw, [y], [table])


def _linear_cross_entropy(draw: _Draw) -> list[Tensor]:
    x, weight = draw(6, 16).detach(), draw(16, 40).detach()
    labels = paddle.to_tensor([3, 39, -1, 0, 7, 7])
    statistics = linear_log_sums(x, weight, labels, vocabulary=37)
    dweight = paddle.zeros([16, 40])
    factors, log_sums = draw.in_float32(6).detach(), statistics[0] + statistics[1].log()
    dx = linear_cross_entropy_gradients(
        x, weight, labels, log_sums, factors, vocabulary=37, dweight=dweight
    )
    return [*statistics, dx, dweight]


def _sum_of_squares(draw: _Draw) -> list[Tensor]:
    return [sum_of_squares(draw.in_float32(50).detach())]


def _adamw(draw: _Draw) -> list[Tensor]:
    weights, moment1, gradient = (draw.in_float32(50).detach() for _ in range(3))
    moment2 = gradient.square()
    adamw_(weights, moment1, moment2, gradient, Rates(1e-2, 0.9, 0.95, 1e-8, 0.1, 0.5, 0.81, 0.9))
    return [weights, moment1, moment2]
