"""The operators in CUDA (external_ops/csrc/paddle_cuda/binding.cc): what each makes."""

from __future__ import annotations

from typing import Any

from llm_pretrain.planning.shapes.movement import moved
from llm_pretrain.planning.shapes.storage import Storage, recorder
from llm_pretrain.planning.shapes.tensor import Tensor, new
from llm_pretrain.planning.trace import AttentionProduct


def _same(x: Tensor) -> Tensor:
    return new(x.shape, x.dtype)


def _floats(*shape: int) -> Tensor:
    return new(shape, "float32")


def _norm(name: str, x: Tensor, residual: Tensor | None, statistics: int) -> list[Tensor]:
    rows = x.size // x.shape[-1]
    y, total = _same(x), x if residual is None else _same(x)
    moved(name, x, y, total)
    return [y, total, *(_floats(rows) for _ in range(statistics))]


def _norm_backward(name: str, dy: Tensor, total: Tensor, parameters: int) -> list[Tensor]:
    width = dy.shape[-1]
    dx, dparameters = _same(dy), [_floats(width) for _ in range(parameters)]
    # llm_ops_norm_workspace (csrc/cuda/norm_backward.cu): sums of weight and bias for each slice.
    slices = min(-(-dy.size // width // _ROWS_OF_BLOCK), _MOST_SLICES)
    workspace = Storage(4 * 2 * slices * width)
    moved(name, dy, total, dx)
    del workspace
    return [dx, *dparameters]


_ROWS_OF_BLOCK, _MOST_SLICES = 4, 528
"""kRowsOfBlock and kMostSlices."""


def llm_ops_rms_norm(
    x: Tensor, residual: Tensor | None, weight: Tensor, epsilon: float
) -> list[Tensor]:
    return _norm("rms_norm", x, residual, 1)


def llm_ops_layer_norm(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor, epsilon: float
) -> list[Tensor]:
    return _norm("layer_norm", x, residual, 2)


def llm_ops_rms_norm_backward(dy: Tensor, total: Tensor, *_: Any) -> list[Tensor]:
    return _norm_backward("rms_norm gradient", dy, total, 1)


def llm_ops_layer_norm_backward(dy: Tensor, total: Tensor, *_: Any) -> list[Tensor]:
    return _norm_backward("layer_norm gradient", dy, total, 2)


def llm_ops_rotary(x: Tensor, cos: Tensor, sin: Tensor, spans: int, sign: int) -> Tensor:
    y = _same(x)
    moved("rotary", x, y)
    return y


def llm_ops_activation(x: Tensor, up: Tensor | None, kind: int) -> Tensor:
    y = _same(x)
    moved("activation", *([x, y] if up is None else [x, up, y]))
    return y


def llm_ops_activation_backward(
    dy: Tensor, x: Tensor, up: Tensor | None, kind: int
) -> list[Tensor]:
    dx = _same(x)
    dup = dx if up is None else _same(x)
    moved("activation gradient", *([dy, x, dx] if up is None else [dy, x, up, dx, dup]))
    return [dx, dup]


def _attention(q: Tensor, k: Tensor, *, is_backward: bool) -> None:
    B, S, N, D = q.shape
    recorder.events.append(
        AttentionProduct(
            B, N, k.shape[2], S, k.shape[1], D, q.dtype.name, True, is_backward=is_backward
        )
    )


def llm_ops_flash_attention(q: Tensor, k: Tensor, v: Tensor, *rules: Any) -> list[Tensor]:
    B, S, N, _ = q.shape
    y, log_sums = _same(q), _floats(B, N, S)
    _attention(q, k, is_backward=False)
    return [y, log_sums]


def llm_ops_flash_attention_backward(
    q: Tensor, k: Tensor, v: Tensor, y: Tensor, log_sums: Tensor, dy: Tensor, *rules: Any
) -> list[Tensor]:
    gradients, corrections = [_same(x) for x in (q, k, v)], _same(log_sums)
    _attention(q, k, is_backward=True)
    del corrections
    return gradients


def llm_ops_cross_entropy_begin(labels: Tensor) -> list[Tensor]:
    return [_floats(labels.size) for _ in range(3)]


def llm_ops_cross_entropy_add(logits: Tensor, *_: Any) -> None:
    moved("cross_entropy", logits)


def llm_ops_cross_entropy_backward(logits: Tensor, *_: Any) -> None:
    moved("cross_entropy gradient", logits, logits)


def llm_ops_adamw(masters: list[Tensor], *_: Any) -> None:
    moved("adamw", *(masters * 7))
