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
    runs: dict[str, Callable[[str], list[Tensor]]] = {
        "linear": _linear,
        "norm": _norm,
        "rotary": _rotary,
        "activation": _activation,
        "attention": _attention,
        "embedding": _embedding,
        "linear_cross_entropy": _linear_cross_entropy,
        "sum_of_squares": lambda _: [sum_of_squares(_numbers("float32", 50).detach())],
        "adamw": _adamw,
    }
    return {operator: partial(_compare, operator, run, dtype) for operator, run in runs.items()}


def _compare(operator: str, run: Callable[[str], list[Tensor]], dtype: str) -> None:
    found = _values(run(dtype))
    with dispatch.reference_of(operator):
        expected = _values(run(dtype))
    for ours, theirs in zip(found, expected, strict=True):
        bound = _BOUNDS[dtype] * max(float(np.abs(theirs).max()), 1e-3)
        error = float(np.abs(ours - theirs).max())
        if not error <= bound:
            raise ArithmeticError(f"it is off by {error:.1e}, and {bound:.1e} is allowed")


def _values(tensors: list[Tensor]) -> list[NDArray[np.float32]]:
    return [tensor.astype("float32").numpy() for tensor in tensors]


def _numbers(dtype: str, *shape: int) -> Tensor:
    """Always the same numbers; Paddle's generator, which runs draw from, is left alone."""
    values = np.random.default_rng(sum(shape)).standard_normal(shape, dtype=np.float32)
    tensor = paddle.to_tensor(values).astype(dtype)
    tensor.stop_gradient = False
    return tensor


def _with_gradients(outputs: list[Tensor], operands: list[Tensor]) -> list[Tensor]:
    total = sum((y.astype("float32") * _numbers("float32", *y.shape)).sum() for y in outputs)
    paddle.autograd.backward([total])
    return [*outputs, *(operand.grad for operand in operands)]


def _linear(dtype: str) -> list[Tensor]:
    x, weights = _numbers(dtype, 2, 5, 24), [_numbers(dtype, 24, 32), _numbers(dtype, 24, 8)]
    bias = _numbers(dtype, 8)
    # Large products take other ways than small ones.
    large, weight = _numbers(dtype, 304, 320), _numbers(dtype, 320, 336)
    outputs = [*linears(x, weights, [None, bias]), *linears(large, [weight], [None])]
    return _with_gradients(outputs, [x, *weights, bias, large, weight])


def _norm(dtype: str) -> list[Tensor]:
    x, weight, bias = _numbers(dtype, 2, 5, 48), _numbers(dtype, 48), _numbers(dtype, 48)
    branch = _numbers(dtype, 3, 5, 32).reshape([2, 5, 48])
    outputs = [rms_norm(x, weight, 1e-5), layer_norm(x, weight, bias, 1e-5)]
    outputs += [*add_rms_norm(x, branch, weight, 1e-5), add(x, branch)]
    return _with_gradients(outputs, [x, weight, bias])


def _rotary(dtype: str) -> list[Tensor]:
    q, k = _numbers(dtype, 2, 5, 4, 16), _numbers(dtype, 2, 5, 2, 16)
    cos, sin = (_numbers("float32", 5, n).detach()[:, :8].tile([1, 2]) for n in (8, 9))
    return _with_gradients(list(rotary(q, k, cos, sin)), [q, k])


def _activation(dtype: str) -> list[Tensor]:
    x, up = _numbers(dtype, 3, 40), _numbers(dtype, 3, 40)
    kinds = ("silu", "gelu", "gelu_tanh")
    outputs = [activation(kind, x, up) for kind in kinds] + [activation("relu", x)]
    return _with_gradients(outputs, [x, up])


def _attention(dtype: str) -> list[Tensor]:
    rows = np.arange(40)[None].repeat(2, axis=0)
    by_head_size = {
        64: (Mask(), Mask(prefix_ends=rows // 13 * 13 + 7, document_starts=rows // 13 * 13)),
        80: (Mask(slopes=np.array([0.5, 0.125], np.float32)),),
        96: (Mask(),),
        128: (Mask(),),
    }
    found = []
    for size, masks in by_head_size.items():
        q, k, v = (_numbers(dtype, 2, 40, heads, size) for heads in (2, 1, 1))
        outputs = [attention(q, k, v, mask) for mask in masks]
        found += _with_gradients(outputs, [q, k, v])
    return found


def _embedding(dtype: str) -> list[Tensor]:
    table = _numbers(dtype, 9, 16)
    y = embedding(paddle.to_tensor([[1, 8, 1], [0, 1, 3]]), table)
    return _with_gradients([y], [table])


def _linear_cross_entropy(dtype: str) -> list[Tensor]:
    x, weight = _numbers(dtype, 6, 16).detach(), _numbers(dtype, 16, 40).detach()
    labels = paddle.to_tensor([3, 39, -1, 0, 7, 7])
    statistics = linear_log_sums(x, weight, labels, vocabulary=37)
    dweight = paddle.zeros([16, 40])
    factors, log_sums = _numbers("float32", 6).detach(), statistics[0] + statistics[1].log()
    dx = linear_cross_entropy_gradients(
        x, weight, labels, log_sums, factors, vocabulary=37, dweight=dweight
    )
    return [*statistics, dx, dweight]


def _adamw(dtype: str) -> list[Tensor]:
    weights, moment1, gradient = (_numbers("float32", 50 + i).detach()[:50] for i in range(3))
    moment2 = gradient.square()
    adamw_(weights, moment1, moment2, gradient, Rates(1e-2, 0.9, 0.95, 1e-8, 0.1, 0.5, 0.81, 0.9))
    return [weights, moment1, moment2]
