"""RMSNorm and LayerNorm in C++."""

from __future__ import annotations

from typing import Any

import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

from llm_pretrain.ops.native.library import as_float32, call, expect, packed
from llm_pretrain.ops.trained import for_trained, note_trained


class RMSNorm(PyLayer):
    """`ops.rms_norm`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        note_trained(ctx, x, weight)
        x, width = packed(x), x.shape[-1]
        expect("weight", weight, [width])
        y, inverse = paddle.empty_like(x), paddle.empty([x.size // width], "float32")
        call("rms_norm", x.size // width, width, x, None, None, x.dtype, as_float32(weight),
             epsilon, y, inverse)  # fmt: skip
        ctx.save_for_backward(x, weight, inverse)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensor()
        dx, dweight = paddle.empty_like(x), paddle.empty(weight.shape, "float32")
        call("rms_norm_backward", inverse.size, x.shape[-1], packed(dy), x, x.dtype,
             as_float32(weight), inverse, None, dx, dweight)  # fmt: skip
        return for_trained(ctx, dx, dweight.astype(weight.dtype))


class LayerNorm(PyLayer):
    """`ops.layer_norm`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
        note_trained(ctx, x, weight, bias)
        x, width = packed(x), x.shape[-1]
        expect("weight", weight, [width])
        expect("bias", bias, [width])
        y = paddle.empty_like(x)
        mean, inverse = (paddle.empty([x.size // width], "float32") for _ in range(2))
        call("layer_norm", x.size // width, width, x, None, None, x.dtype, as_float32(weight),
             as_float32(bias), epsilon, y, mean, inverse)  # fmt: skip
        ctx.save_for_backward(x, weight, mean, inverse)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse = ctx.saved_tensor()
        dx = paddle.empty_like(x)
        dweight, dbias = (paddle.empty(weight.shape, "float32") for _ in range(2))
        call("layer_norm_backward", inverse.size, x.shape[-1], packed(dy), x, x.dtype,
             as_float32(weight), mean, inverse, None, dx, dweight, dbias)  # fmt: skip
        return for_trained(ctx, dx, dweight.astype(weight.dtype), dbias.astype(weight.dtype))
