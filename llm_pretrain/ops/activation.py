"""The activations of the feed-forward layers, with or without a gate."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from paddle import Tensor
from paddle.nn import functional as F

from llm_pretrain.ops.cuda import elementwise as cuda
from llm_pretrain.ops.native import elementwise as native
from llm_pretrain.ops.operator import Draw, Operator
from llm_pretrain.ops.precision import in_float32_on_cpu

ACTIVATION = Operator("activation", cpp=native, cuda=cuda)

_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
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
        return in_float32_on_cpu(_FUNCTIONS[name], x)
    if name == "silu":
        return in_float32_on_cpu(F.swiglu, x, up)
    return in_float32_on_cpu(lambda x, up: _FUNCTIONS[name](x) * up, x, up)


@ACTIVATION.self_test
def _example(draw: Draw) -> list[Tensor]:
    x, up = draw(3, 40), draw(3, 40)
    kinds = ("silu", "gelu", "gelu_tanh")
    outputs = [activation(kind, x, up) for kind in kinds] + [activation("relu", x)]
    return draw.with_gradients(outputs, [x, up])
