"""Rotary embedding, activations and AdamW by the CUDA kernels."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import paddle
import pytest
from paddle import Tensor

from llm_pretrain import ops
from tests.ops.comparison import close, normal
from tests.ops.cuda import emulated
from tests.ops.cuda.comparison import BOUNDS, check

RATES = {
    "learning_rate": 1e-2,
    "beta1": 0.9,
    "beta2": 0.95,
    "epsilon": 1e-8,
    "weight_decay": 0.1,
    "gradient_factor": 0.5,
    "step": 3,
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(
    ("turned", "spans"), [(16, 1), (8, 1), (8, 2), (16, 8)], ids=["all", "part", "two", "pairs"]
)
@pytest.mark.parametrize("by_sample", [True, False], ids=["by sample", "for all"])
def test_rotary(cuda: ModuleType, dtype: str, turned: int, spans: int, by_sample: bool) -> None:
    half = normal("float32", *([2] if by_sample else []), 5, spans, 1, turned // spans // 2)
    angles = half.tile([1] * (half.ndim - 2) + [2, 1]).reshape([*half.shape[:-3], turned])
    cos, sin = angles.cos(), angles.sin()

    def rotated(qkv: Tensor) -> tuple[Tensor, Tensor]:
        q, k, _ = paddle.split(qkv, [3, 2, 1], axis=2)
        return ops.rotary(q, k, cos, sin, spans=spans)

    check(cuda, rotated, normal(dtype, 2, 5, 6, 16), bound=BOUNDS[dtype], called={"rotary"})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("is_gated", [True, False], ids=["gated", "plain"])
@pytest.mark.parametrize("kind", ["silu", "gelu", "gelu_tanh", "relu"])
def test_activation(cuda: ModuleType, kind: str, is_gated: bool, dtype: str) -> None:
    operands = [normal(dtype, 2, 3, 20), normal(dtype, 6, 20).reshape([2, 3, 20])]
    check(cuda, lambda *given: ops.activation(kind, *given), *operands[: 1 + is_gated],
          bound=BOUNDS[dtype], called={"activation", "activation_backward"})  # fmt: skip


def test_a_gate_of_another_dtype_goes_to_the_reference(cuda: ModuleType) -> None:
    x, up = normal("float32", 8), normal("bfloat16", 8)
    expected = ops.activation("relu", x, up).numpy()
    emulated.serve()
    np.testing.assert_array_equal(ops.activation("relu", x, up).numpy(), expected)
    assert not cuda.calls


@pytest.mark.parametrize("size", [8, 13])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adamw(cuda: ModuleType, dtype: str, size: int) -> None:
    def updated() -> list[np.ndarray]:
        weights, moment1 = normal("float32", size), normal("float32", size, 1).flatten()
        moment2 = moment1.square()
        for _ in range(2):
            ops.adamw_(weights, moment1, moment2, normal(dtype, 1, size).flatten(), **RATES)
        return [x.numpy() for x in (weights, moment1, moment2)]

    expected = updated()
    emulated.serve()
    close(updated(), expected, BOUNDS["float32"])
    assert cuda.calls == ["adamw", "adamw"]


def test_adamw_leaves_gaps_to_the_reference(cuda: ModuleType) -> None:
    def updated() -> np.ndarray:
        table = paddle.arange(12, dtype="float32").reshape([6, 2])
        weights = table[:, 0]
        moments = [paddle.zeros([6]) for _ in range(2)]
        ops.adamw_(weights, *moments, normal("float32", 6), **RATES)
        return weights.numpy()

    expected = updated()
    emulated.serve()
    np.testing.assert_array_equal(updated(), expected)


def test_wrong_operands_are_refused_before_a_kernel_reads_them(cuda: ModuleType) -> None:
    emulated.serve()
    four, five = normal("float32", 4), normal("float32", 5)
    with pytest.raises(OSError, match="4 elements where 5 are needed"):
        ops.adamw_(five, five.clone(), four, five.clone(), **RATES)
    with pytest.raises(OSError, match="4 elements where 5 are needed"):
        ops.rms_norm(normal("float32", 2, 5), four, 1e-5)
    tables = normal("float32", 3, 8), normal("float32", 3, 8)
    with pytest.raises(OSError, match="elements where"):
        ops.rotary(*(normal("float32", 2, 5, 1, 8) for _ in range(2)), *tables)
    with pytest.raises(OSError, match="float32"):
        cuda.llm_ops_rms_norm(normal("bfloat16", 2, 5), None, five, 1e-5)


def test_empty_operands_go_to_the_reference(cuda: ModuleType) -> None:
    emulated.serve()
    assert ops.activation("silu", paddle.zeros([0, 8])).shape == [0, 8]
    assert not cuda.calls
