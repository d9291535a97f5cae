"""What is around Paddle's kernels for GPUs, with stand-ins that compute what Paddle documents."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest
from paddle import Tensor

from llm_pretrain import ops
from llm_pretrain.ops import OPERATORS, dispatch, paddle_elementwise, paddle_flashmask
from llm_pretrain.ops.cuda import library
from llm_pretrain.ops.mask import Mask
from llm_pretrain.ops.operator import HOPPER, PADDLE
from tests.ops.comparison import close, results

LENGTH = 12


@pytest.fixture(autouse=True)
def _the_cpu_is_the_gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(library, "is_on_device", lambda x: True)
    monkeypatch.setattr(paddle_elementwise.F, "rms_norm", rms_norm, raising=False)
    monkeypatch.setattr(paddle_elementwise, "fused_rotary_position_embedding", rotary)
    yield
    dispatch.use_references()


def rms_norm(x: Tensor, shape: list[int], weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    assert (shape, weight.dtype) == ([x.shape[-1]], x.dtype)
    inverse = (x.astype("float32").square().mean(-1, keepdim=True) + eps).rsqrt()
    y = x.astype("float32") * inverse * weight.astype("float32")
    return y.astype(x.dtype), inverse.squeeze(-1)


def rotary(
    q: Tensor, k: Tensor, *, sin: Tensor, cos: Tensor, use_neox_rotary_style: bool
) -> tuple[Tensor, Tensor, None]:
    assert sin.shape == cos.shape == [1, q.shape[1], 1, q.shape[-1]]
    assert q.dtype == k.dtype == sin.dtype

    def turned(x: Tensor) -> Tensor:
        if use_neox_rotary_style:
            partner = paddle.stack([-x[..., 1::2], x[..., ::2]], axis=-1).reshape(x.shape)
        else:
            half = x.shape[-1] // 2
            partner = paddle.concat([-x[..., half:], x[..., :half]], axis=-1)
        return x * cos + partner * sin

    return turned(q), turned(k), None


def draw(*shape: int, dtype: str = "float32", seed: int = 0) -> Tensor:
    values = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    tensor = paddle.to_tensor(values).astype(dtype)
    tensor.stop_gradient = False
    return tensor


def check(name: str, operator: Any, *operands: Tensor, bound: float = 1e-5) -> None:
    """Paddle's kernel takes the operands, and gives the reference's results."""
    expected = results(operator, list(operands))
    with OPERATORS[name].only_by(PADDLE):
        found = results(operator, list(operands))
    close(found, expected, bound)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_norm(dtype: str) -> None:
    x, weight = draw(2, 5, 16, dtype=dtype), draw(16, dtype=dtype, seed=1)
    bound = 1e-5 if dtype == "float32" else 2e-2
    check("norm", lambda x, w: ops.rms_norm(x, w, 1e-5), x, weight, bound=bound)


def test_the_norm_of_a_sum() -> None:
    x, branch, weight = (draw(*shape, seed=2) for shape in ((2, 5, 16), (2, 5, 16), (16,)))
    narrow = branch.detach().astype("bfloat16")
    check("norm", lambda x, y, w: ops.add_rms_norm(x, y, w, 1e-5), x, branch, weight)
    check("norm", lambda x, y, w: ops.add_rms_norm(x, y, w, 1e-5), x, narrow, weight, bound=1e-2)


def test_a_norm_whose_operands_would_be_rounded_is_left_to_others() -> None:
    x, weight, bias = draw(2, 16, dtype="bfloat16"), draw(16), draw(16)
    assert paddle_elementwise.norm(x, None, 1e-5, weight) is NotImplemented
    assert paddle_elementwise.norm(x, x, 1e-5, weight, bias) is NotImplemented


@pytest.mark.parametrize("spans", [1, 4])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rotation_of_halves_and_of_neighbours(dtype: str, spans: int) -> None:
    """In float32 throughout, as the reference."""
    q, k = draw(2, LENGTH, 3, 8, dtype=dtype), draw(2, LENGTH, 1, 8, dtype=dtype, seed=1)
    angles = draw(LENGTH, spans, 1, 4 // spans, seed=2).detach()
    angles = angles.tile([1, 1, 2, 1]).reshape([LENGTH, 8])
    cos, sin = angles.cos(), angles.sin()
    bound = 1e-5 if dtype == "float32" else 1e-2
    check("rotary", lambda q, k: ops.rotary(q, k, cos, sin, spans=spans), q, k, bound=bound)
    assert paddle_elementwise.rotary(q, k, cos[:, :4], sin[:, :4]) is NotImplemented
    by_sample = cos.expand([2, LENGTH, 8])
    assert paddle_elementwise.rotary(q, k, by_sample, by_sample) is NotImplemented
    assert paddle_elementwise.rotary(q, k, cos, sin, spans=2) is NotImplemented


def test_adamw() -> None:
    """Paddle's CPU has the kernel, too."""
    adamw = OPERATORS["adamw"]
    with adamw.only_by(PADDLE):
        adamw.test("float32")


DOCUMENTS = np.array([[0] * 5 + [5] * 4 + [9] * 3, [0] * 12])


@pytest.mark.parametrize("mask", [Mask(), Mask(document_starts=DOCUMENTS)])
def test_flashmask_gets_what_no_query_sees_any_more(
    monkeypatch: pytest.MonkeyPatch, mask: Mask
) -> None:
    """A key is seen from its own position up to the first that is blind to it."""
    given: list[Tensor] = []
    flags: dict[str, Any] = {}

    def kernel(q: Tensor, k: Tensor, v: Tensor, firsts: Tensor, *, causal: bool) -> Tensor:
        assert causal
        given.append(firsts)
        return q

    monkeypatch.setattr(paddle_flashmask, "flashmask_attention", kernel)
    monkeypatch.setattr(paddle, "set_flags", flags.update)
    q, k = draw(2, LENGTH, 4, 64, dtype="bfloat16"), draw(2, LENGTH, 2, 64, dtype="bfloat16")
    with OPERATORS["attention"].only_by(HOPPER):
        assert ops.attention(q, k, k, mask) is q
    assert flags == {"FLAGS_flash_attn_version": 3}
    (firsts,) = given
    assert (firsts.shape, firsts.dtype) == ([2, 1, LENGTH, 1], paddle.int32)
    positions = np.arange(LENGTH)
    bias = mask.bias(positions, positions)
    assert bias is not None
    seen = np.broadcast_to(bias.numpy() == 0, (2, 1, LENGTH, LENGTH))
    i, j = positions[:, None], positions[None]
    np.testing.assert_array_equal(seen, (j <= i) & (i < firsts.numpy().transpose(0, 1, 3, 2)))


def test_flashmask_leaves_other_masks_heads_and_dtypes() -> None:
    def taken(q: Tensor, mask: Mask, **options: Any) -> bool:
        return paddle_flashmask.attention(q, q, q, mask, **options) is not NotImplemented

    q = draw(1, LENGTH, 2, 64, dtype="bfloat16")
    ends = np.full((1, LENGTH), 3)
    assert not taken(q, Mask(slopes=np.ones(2, np.float32)))
    assert not taken(q, Mask(prefix_ends=ends))
    assert not taken(q, Mask(document_starts=np.array([[0, 3, 0] * 4])))
    assert not taken(q, Mask(), dropout=0.1)
    assert not taken(q.astype("float32"), Mask())
    assert not taken(draw(1, LENGTH, 2, 160, dtype="bfloat16"), Mask())
