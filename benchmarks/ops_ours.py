"""The part of ops.py that is this program's: `ops_ours.py SIZES`. Letters as in ops_work.py."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache

# Settles the threads, which has to be done before Paddle is imported.
import llm_pretrain  # noqa: F401

# isort: split
import paddle
from ops_timing import Passes, seconds_of, serve
from ops_work import DEVIATION, SIZES
from paddle import Tensor

from llm_pretrain import ops
from llm_pretrain.ops import dispatch
from llm_pretrain.ops.mask import Mask
from llm_pretrain.ops.native.library import call
from llm_pretrain.parallel.layers.vocabulary import losses_in_slices

sizes = SIZES[sys.argv[1]]
B, S, H, F, V = sizes.batch, sizes.sequence, sizes.hidden, sizes.feed_forward, sizes.vocabulary
X_BSH, HEADS_BSND = [B, S, H], sizes.heads_shape
EPSILON = 1e-6
RATES = {
    "learning_rate": 1e-4,
    "beta1": 0.9,
    "beta2": 0.95,
    "epsilon": 1e-8,
    "weight_decay": 0.1,
    "gradient_factor": 1.0,
}

ids = paddle.randint(0, V, [B, S])
half = HEADS_BSND[-1] // 2
angles = paddle.outer(paddle.arange(S).astype("float32"), 1e4 ** -(paddle.arange(half) / half))
cos, sin = (paddle.tile(table, [1, 2]) for table in (angles.cos(), angles.sin()))

# Functions, and the shapes of what they are differentiated by.
FUNCTIONS: dict[str, tuple[Callable, list[list[int]]]] = {
    **{name: (ops.linear, [[B, S, i], [i, o]]) for name, (i, o) in sizes.linears.items()},
    "RMSNorm": (lambda x, w: ops.rms_norm(x, w, EPSILON), [X_BSH, [H]]),
    "LayerNorm": (lambda x, w, b: ops.layer_norm(x, w, b, EPSILON), [X_BSH, [H], [H]]),
    "rotary": (lambda q, k: ops.rotary(q, k, cos, sin), [HEADS_BSND] * 2),
    "SwiGLU": (lambda gate, up: ops.activation("silu", gate, up), [[B, S, F]] * 2),
    "causal attention": (lambda q, k, v: ops.attention(q, k, v, Mask()), [HEADS_BSND] * 3),
    "embedding": (lambda table: ops.embedding(ids, table), [[V, H]]),
    "linear + cross entropy": (
        lambda x, w: losses_in_slices(x, w, ids, present=V, transposed=False).mean(),
        [X_BSH, [H, V]],
    ),
}


@cache
def choose(dtype: str) -> None:
    """Let the C++ operators serve."""
    for choice in dispatch.choose({}, dtype):
        if choice.is_reference:
            raise SystemExit(f"{choice.operator} is served by its reference: {choice.reason}")


def random(dtype: paddle.dtype | str, shape: list[int]) -> Tensor:
    return (paddle.randn(shape) * DEVIATION).astype(dtype)


def both_passes(operator: str, dtype: str) -> Callable[[], Passes]:
    function, shapes = FUNCTIONS[operator]
    operands = [random(dtype, shape) for shape in shapes]
    for operand in operands:
        operand.stop_gradient = False
    dys: list[Tensor] = []

    def once() -> Passes:
        for operand in operands:
            operand.grad = None
        outputs: list[Tensor] = []
        forward = seconds_of(lambda: outputs.extend(_as_list(function(*operands))))
        dys.extend(random(y.dtype, y.shape) for y in outputs[len(dys) :])
        backward = seconds_of(lambda: paddle.autograd.backward(outputs, dys))
        return {"forward": forward, "backward": backward}

    return once


def _as_list(outputs: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


def adamw() -> Callable[[], Passes]:
    weights, moment1, moment2, gradient = (paddle.full([sizes.parameters], 1e-3) for _ in range(4))
    return lambda: {
        "step": seconds_of(lambda: ops.adamw_(weights, moment1, moment2, gradient, **RATES, step=1))
    }


def product(dtype: str) -> Callable[[], Passes]:
    """Of large square matrices."""
    n = sizes.square
    a, b, c = (random(dtype, [n, n]) for _ in range(3))
    arguments = n, n, n, a, 0, b, 0, a.dtype, None, c, c.dtype, 0
    return lambda: {"product": seconds_of(lambda: call("matmul", *arguments))}


def prepare(operator: str, dtype: str) -> Callable[[], Passes]:
    choose(dtype)
    if operator == "product":
        return product(dtype)
    return adamw() if operator == "AdamW" else both_passes(operator, dtype)


serve(prepare)
