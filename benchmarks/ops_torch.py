"""The part of ops.py that is PyTorch's: `ops_torch.py SIZES`. Letters as in ops_work.py."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import torch
from ops_timing import Passes, seconds_of, serve
from ops_work import DEVIATION, SIZES
from torch import Tensor
from torch.nn import functional as F

sizes = SIZES[sys.argv[1]]
B, S, H, V = sizes.batch, sizes.sequence, sizes.hidden, sizes.vocabulary
X_BSH, GATE_BSF, HEADS_BSND = [B, S, H], [B, S, sizes.feed_forward], sizes.heads_shape
EPSILON = 1e-6

ids = torch.randint(0, V, [B, S])
half = HEADS_BSND[-1] // 2
angles = torch.outer(torch.arange(S).float(), 1e4 ** -(torch.arange(half) / half)).tile(1, 2)
cosine, sine = angles.cos().unsqueeze(1), angles.sin().unsqueeze(1)


def rotary(q: Tensor, k: Tensor) -> list[Tensor]:
    """As `transformers` has it: PyTorch brings no operator."""
    cos, sin = cosine.to(q.dtype), sine.to(q.dtype)
    halves = (x.chunk(2, -1) for x in (q, k))
    turned = [torch.cat([-second, first], -1) for first, second in halves]
    return [x * cos + y * sin for x, y in zip((q, k), turned, strict=True)]


def attention(*heads_BSND: Tensor) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in heads_BSND)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)


def head(x: Tensor, weight: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(x, weight).float().flatten(0, 1), ids.flatten())


# Functions, and the shapes of what they are differentiated by.
FUNCTIONS: dict[str, tuple[Callable, list[list[int]]]] = {
    **{name: (F.linear, [[B, S, i], [o, i]]) for name, (i, o) in sizes.linears.items()},
    "RMSNorm": (lambda x, w: F.rms_norm(x, [H], w, EPSILON), [X_BSH, [H]]),
    "LayerNorm": (lambda x, w, b: F.layer_norm(x, [H], w, b, EPSILON), [X_BSH, [H], [H]]),
    "rotary": (rotary, [HEADS_BSND] * 2),
    "SwiGLU": (lambda gate, up: F.silu(gate) * up, [GATE_BSF] * 2),
    "causal attention": (attention, [HEADS_BSND] * 3),
    "embedding": (lambda table: F.embedding(ids, table), [[V, H]]),
    "linear + cross entropy": (head, [X_BSH, [V, H]]),
}


def random(dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
    return (torch.randn(shape) * DEVIATION).to(dtype)


def both_passes(operator: str, dtype: torch.dtype) -> Callable[[], Passes]:
    function, shapes = FUNCTIONS[operator]
    operands = [random(dtype, shape).requires_grad_() for shape in shapes]
    dys: list[Tensor] = []

    def once() -> Passes:
        for operand in operands:
            operand.grad = None
        outputs: list[Tensor] = []
        forward = seconds_of(lambda: outputs.extend(_as_list(function(*operands))))
        dys.extend(random(y.dtype, y.shape) for y in outputs[len(dys) :])
        backward = seconds_of(lambda: torch.autograd.backward(outputs, dys))
        return {"forward": forward, "backward": backward}

    return once


def _as_list(outputs: Tensor | list[Tensor]) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else outputs


def adamw() -> Callable[[], Passes]:
    weights = torch.full([sizes.parameters], 1e-3, requires_grad=True)
    weights.grad = torch.full_like(weights, 1e-3)
    optimizer = torch.optim.AdamW([weights], 1e-4, (0.9, 0.95), weight_decay=0.1, fused=True)
    return lambda: {"step": seconds_of(optimizer.step)}


def scaling(size: int) -> Callable[[], Passes]:
    """Reads and writes an array of as many bytes."""
    x = torch.ones(size // 4)
    return lambda: {"scaling": seconds_of(lambda: x.mul_(1.0))}


def prepare(operator: str, dtype: str) -> Callable[[], Passes]:
    if operator in sizes.scalings:
        return scaling(sizes.scalings[operator])
    return adamw() if operator == "AdamW" else both_passes(operator, getattr(torch, dtype))


serve(prepare)
