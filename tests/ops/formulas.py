"""The operators' definitions, written out in float64 with Paddle's autograd for the gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import paddle
from paddle import Tensor


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    return x / paddle.sqrt((x * x).mean(-1, keepdim=True) + epsilon) * weight


def rotate(x_BSND: Tensor, angles_SD: np.ndarray) -> Tensor:
    """Pairs (i, i + D/2) as complex numbers, multiplied by exp(i angle)."""
    half = x_BSND.shape[-1] // 2
    a, b = x_BSND[..., :half], x_BSND[..., half:]
    angles = paddle.to_tensor(angles_SD[:, None, :half])
    cos, sin = angles.cos(), angles.sin()
    return paddle.concat([a * cos - b * sin, b * cos + a * sin], axis=-1)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    return gate / (1 + (-gate).exp()) * up


def attention(
    q_BSND: Tensor, k_BSKD: Tensor, v_BSKD: Tensor, bias_BNST: np.ndarray, kept_BNST: np.ndarray
) -> Tensor:
    """Head by head; the bias is -inf where nothing is seen, `kept` is a factor on probabilities."""
    outputs = []
    group = q_BSND.shape[2] // k_BSKD.shape[2]
    for head in range(q_BSND.shape[2]):
        q, k, v = q_BSND[:, :, head], k_BSKD[:, :, head // group], v_BSKD[:, :, head // group]
        scores = paddle.matmul(q, k, transpose_y=True) / math.sqrt(q.shape[-1])
        weights = (scores + paddle.to_tensor(bias_BNST[:, head])).exp()
        weights = weights / weights.sum(-1, keepdim=True) * paddle.to_tensor(kept_BNST[:, head])
        outputs.append(paddle.matmul(weights, v))
    return paddle.stack(outputs, axis=2)


def attention_bias(
    positions: int,
    slopes: np.ndarray,
    prefix_ends: np.ndarray | None = None,
    document_starts: np.ndarray | None = None,
) -> np.ndarray:
    """Of whole samples, float64 [B or 1, N, S, S]."""
    query, key = np.arange(positions)[:, None], np.arange(positions)[None, :]
    visible = (key <= query)[None]
    if prefix_ends is not None:
        visible = visible | (key < prefix_ends[:, :, None])
    if document_starts is not None:
        visible = visible & (key >= document_starts[:, :, None])
    bias = slopes.astype(np.float64)[:, None, None] * (key - query)
    return np.where(visible[:, None], bias, -np.inf)


def cross_entropy(logits: Tensor, labels: np.ndarray, ignored: int) -> Tensor:
    counts = labels != ignored
    one_hot = np.eye(logits.shape[-1])[np.where(counts, labels, 0)]
    target = (logits * paddle.to_tensor(one_hot)).sum(-1)
    return (logits.exp().sum(-1).log() - target) * paddle.to_tensor(counts.astype(np.float64))


def result_and_gradients(
    function: Callable[..., Tensor], arrays: Sequence[np.ndarray], dtype: str, seed: int = 0
) -> list[np.ndarray]:
    """What `function` makes of the arrays, and the gradients from a random one of its result."""
    tensors = [paddle.to_tensor(array).astype(dtype) for array in arrays]
    for tensor in tensors:
        tensor.stop_gradient = False
    result = function(*tensors)
    gradient = np.random.default_rng(seed).standard_normal(result.shape)
    result.backward(paddle.to_tensor(gradient).astype(result.dtype))
    assert all(tensor.grad.dtype == tensor.dtype for tensor in tensors)
    return [tensor.astype("float64").numpy() for tensor in [result, *(t.grad for t in tensors)]]


TOLERANCES = {"float32": 2e-6, "bfloat16": 2e-2, "float16": 3e-3}


def assert_equal_formula(
    operator: Callable[..., Tensor],
    formula: Callable[..., Tensor],
    arrays: Sequence[np.ndarray],
    dtype: str,
) -> None:
    """Compare results and gradients, relative to each tensor's largest magnitude.

    Where terms cancel, as in the gradient of the scores of a single token, what is left is the
    rounding of the terms, which are as large as the other tensors.
    """
    rounded = [paddle.to_tensor(array).astype(dtype).astype("float64").numpy() for array in arrays]
    ours = result_and_gradients(operator, rounded, dtype)
    exact = result_and_gradients(formula, rounded, "float64")
    terms = max(np.abs(expected).max() for expected in exact)
    for mine, expected in zip(ours, exact, strict=True):
        assert mine.shape == expected.shape
        error = np.abs(mine - expected).max() / max(np.abs(expected).max(), terms / 8)
        assert error < TOLERANCES[dtype]
