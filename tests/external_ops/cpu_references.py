"""The operators and their gradients in float64, written out with NumPy.

Each function returns results by name. Shapes: R rows, H width, V vocabulary; B batch, S length, N
query heads, K key heads, D head size.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy import ndarray

Results = dict[str, ndarray]


def norm(
    x: ndarray,
    residual: ndarray | None,
    weight: ndarray,
    bias: ndarray | None,
    epsilon: float,
    dy: ndarray,
    dsum: ndarray | None,
) -> Results:
    """RMSNorm, or LayerNorm where there is a bias; x and dy [R, H]."""
    total = x if residual is None else x + residual
    centred = total if bias is None else total - total.mean(-1, keepdims=True)
    inverse = 1 / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
    normalised = centred * inverse
    h = dy * weight
    dx = h - normalised * (h * normalised).mean(-1, keepdims=True)
    if bias is not None:
        dx = dx - h.mean(-1, keepdims=True)
    results = {
        "sum": total,
        "y": normalised * weight + (0 if bias is None else bias),
        "inverse": inverse[:, 0],
        "dx": dx * inverse + (0 if dsum is None else dsum),
        "dweight": (dy * normalised).sum(0),
    }
    if bias is not None:
        results |= {"mean": total.mean(-1), "dbias": dy.sum(0)}
    return results


def activation(kind: str, x: ndarray, up: ndarray | None, dy: ndarray) -> Results:
    if kind == "silu":
        gate = 1 / (1 + np.exp(-x))
        slope = gate * (1 + x * (1 - gate))
    elif kind == "gelu":
        gate = 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
        slope = gate + x * np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    elif kind == "gelu_tanh":
        factor = math.sqrt(2 / math.pi)
        tanh = np.tanh(factor * (x + 0.044715 * x**3))
        gate = 0.5 * (1 + tanh)
        slope = gate + 0.5 * x * (1 - tanh**2) * factor * (1 + 3 * 0.044715 * x**2)
    else:
        gate = slope = (x > 0).astype(np.float64)
    value = x * gate
    if up is None:
        return {"y": value, "dx": dy * slope}
    return {"y": value * up, "dx": dy * slope * up, "dup": dy * value}


def rotary(x: ndarray, cos: ndarray, sin: ndarray, spans: int, sign: float) -> Results:
    """x [B, S, N, D], its first features turned as the tables [B or 1, S, turned] say."""
    turned = cos.shape[-1]
    half = turned // spans // 2
    parts = x[..., :turned].reshape(*x.shape[:-1], spans, 2, half)
    quarter = np.stack([-parts[..., 1, :], parts[..., 0, :]], -2).reshape(*x.shape[:-1], turned)
    y = x.copy()
    y[..., :turned] = x[..., :turned] * cos[:, :, None] + sign * quarter * sin[:, :, None]
    return {"y": y}


def attention(
    q: ndarray,
    k: ndarray,
    v: ndarray,
    slopes: ndarray | None,
    prefix_ends: ndarray | None,
    document_starts: ndarray | None,
    dy: ndarray,
) -> Results:
    """q, dy [B, S, N, D]; k, v [B, S, K, D]."""
    S, N, D = q.shape[1:]
    K = k.shape[2]
    query, key = np.arange(S)[:, None], np.arange(S)[None]
    seen = np.broadcast_to(key <= query, (len(q), S, S))
    if prefix_ends is not None:
        seen = seen | (key < prefix_ends[:, :, None])
    if document_starts is not None:
        seen = seen & (key >= document_starts[:, :, None])
    bias = np.zeros(N) if slopes is None else slopes.astype(np.float64)
    wide_k, wide_v = (np.repeat(x, N // K, axis=2) for x in (k, v))
    scores = np.einsum("bsnd,btnd->bnst", q, wide_k) / math.sqrt(D)
    scores = scores + bias[:, None, None] * (key - query)
    scores = np.where(seen[:, None], scores, -np.inf)
    largest = scores.max(-1, keepdims=True)
    log_sums = largest + np.log(np.exp(scores - largest).sum(-1, keepdims=True))
    p = np.exp(scores - log_sums)
    dp = np.einsum("bsnd,btnd->bnst", dy, wide_v)
    ds = p * (dp - (p * dp).sum(-1, keepdims=True)) / math.sqrt(D)
    grouped = (*k.shape[:3], N // K, D)
    return {
        "y": np.einsum("bnst,btnd->bsnd", p, wide_v),
        "log_sums": log_sums[..., 0],
        "dq": np.einsum("bnst,btnd->bsnd", ds, wide_k),
        "dk": np.einsum("bnst,bsnd->btnd", ds, q).reshape(grouped).sum(3),
        "dv": np.einsum("bnst,bsnd->btnd", p, dy).reshape(grouped).sum(3),
    }


def linear_cross_entropy(x: ndarray, weight: ndarray, labels: ndarray, factors: ndarray) -> Results:
    """x [R, H], weight [H, V]; gradients of the losses' sum, each times its factor [R].

    A label outside the vocabulary has no target.
    """
    z = x @ weight
    has_label = (labels >= 0) & (labels < z.shape[1])
    is_label = np.eye(z.shape[1])[np.where(has_label, labels, 0)] * has_label[:, None]
    largest = z.max(-1)
    total = np.exp(z - largest[:, None]).sum(-1)
    log_sums = largest + np.log(total)
    dz = (np.exp(z - log_sums[:, None]) - is_label) * factors[:, None]
    return {
        "largest": largest,
        "sum": total,
        "target": (z * is_label).sum(-1),
        "log_sums": log_sums,
        "dx": dz @ weight.T,
        "dweight": x.T @ dz,
    }


def adamw(
    master: ndarray, moment1: ndarray, moment2: ndarray, gradient: ndarray, rates: dict[str, Any]
) -> Results:
    g = gradient * rates["factor"]
    moment1 = rates["beta1"] * moment1 + (1 - rates["beta1"]) * g
    moment2 = rates["beta2"] * moment2 + (1 - rates["beta2"]) * g**2
    root = np.sqrt(moment2 / rates["correction2"]) + rates["epsilon"]
    kept = master * (1 - rates["learning_rate"] * rates["weight_decay"])
    step = rates["learning_rate"] * moment1 / rates["correction1"] / root
    return {"master": kept - step, "moment1": moment1, "moment2": moment2}
