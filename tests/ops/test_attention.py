"""Attention, plain and flash, against its formula: grouped heads, blocks, masks and dropout."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import pytest

from llm_pretrain import ops
from llm_pretrain.models.position import alibi_slopes
from llm_pretrain.ops import OPERATORS, dispatch, paddle_attention, random_bits
from llm_pretrain.ops.flash_attention import Queries, blocks_of
from llm_pretrain.ops.mask import Mask
from tests.ops import formulas
from tests.ops.formulas import assert_equal_formula

Operator = Callable[..., paddle.Tensor]
BOTH = pytest.mark.parametrize(
    "operator", [ops.attention, ops.flash_attention], ids=["plain", "flash"]
)
SHAPES = [
    pytest.param((2, 7, 4, 4, 6), id="multi-head"),
    pytest.param((2, 7, 4, 2, 6), id="grouped"),
    pytest.param((1, 7, 3, 1, 6), id="multi-query"),
    pytest.param((2, 1, 2, 1, 4), id="one token"),
    pytest.param((1, 128, 2, 1, 4), id="whole blocks"),
    pytest.param((2, 300, 4, 2, 4), id="several blocks, the last one short"),
]


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flash attention in blocks of 64, so that short sequences have several."""
    module = importlib.import_module("llm_pretrain.ops.flash_attention")
    monkeypatch.setattr(module, "_BLOCK", 64)


def arrays(batch: int, length: int, heads: int, kv_heads: int, size: int) -> list[np.ndarray]:
    generator = np.random.default_rng(length)
    shapes = [(batch, length, n, size) for n in (heads, kv_heads, kv_heads)]
    return [generator.standard_normal(shape) for shape in shapes]


def random_numbers(batch: int, heads: int, length: int) -> paddle.Tensor:
    rows = random_bits.numbers(1, "here", np.arange(batch), np.arange(length))
    return random_bits.numbers_of_heads(paddle.to_tensor(rows), np.arange(heads))


def assert_formula(
    operator: Operator,
    shape: tuple[int, ...],
    dtype: str,
    dropout: float = 0.0,
    **rules: Any,
) -> None:
    batch, length, heads, _, _ = shape
    slopes = rules.get("slopes", np.zeros(heads, np.float32))
    bias = formulas.attention_bias(
        length, slopes, rules.get("prefix_ends"), rules.get("document_starts")
    )
    kept = np.ones((batch, heads, length, length))
    rows = None
    if dropout:
        rows = random_numbers(batch, heads, length)
        kept = random_bits.keep(rows, np.arange(length), dropout).numpy() / (1 - dropout)
    assert_equal_formula(
        lambda q, k, v: operator(q, k, v, Mask(**rules), dropout=dropout, numbers_BNS=rows),
        lambda q, k, v: formulas.attention(q, k, v, bias, kept),
        arrays(*shape),
        dtype,
    )


@BOTH
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_causal(operator: Operator, shape: tuple[int, ...], dtype: str) -> None:
    assert_formula(operator, shape, dtype)


@BOTH
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape.id != "one token"])
def test_dropout(operator: Operator, shape: tuple[int, ...]) -> None:
    assert_formula(operator, shape, "float32", dropout=0.3)


@BOTH
@pytest.mark.parametrize("rule", ["slopes", "prefix", "documents", "all"])
def test_masks(operator: Operator, rule: str) -> None:
    starts = np.array([[0] * 90 + [90] * 150 + [240] * 60, [0] * 299 + [299]])
    rules = {
        "slopes": alibi_slopes(4),
        "prefix_ends": np.array([[130] * 300, [1] * 200 + [270] * 100]),
        "document_starts": starts,
    }
    if rule != "all":
        rules = {name: value for name, value in rules.items() if rule in name}
    assert_formula(operator, (2, 300, 4, 2, 4), "float32", **rules)
    assert_formula(operator, (2, 300, 4, 2, 4), "float32", dropout=0.2, **rules)


@BOTH
@pytest.mark.parametrize("prefix", [500, 1000])
def test_no_bias_is_of_the_whole_sample(
    operator: Operator, prefix: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slopes and lengths are all that is kept of a mask; of its rows, some are made at a time."""
    made, bias = [], Mask.bias

    def watched(*arguments: Any) -> paddle.Tensor | None:
        made.append(bias(*arguments))
        return made[-1]

    monkeypatch.setattr(Mask, "bias", watched)
    rules = {"slopes": alibi_slopes(2), "prefix_ends": np.repeat([[prefix], [1]], 1000, axis=1)}
    assert_formula(operator, (2, 1000, 2, 1, 2), "float32", **rules)
    assert made
    assert all(part.shape[-2] * part.shape[-1] <= 1000 * 1000 / 4 for part in made)


def test_blocks_of_which_nothing_is_seen_are_left_out() -> None:
    """Of two documents, one of whose prefix ends in its third block and one in its first."""
    mask = Mask(
        prefix_ends=np.repeat([[150, 270]], [256, 128], axis=1),
        document_starts=np.repeat([[0, 256]], [256, 128], axis=1),
    )
    blocks = blocks_of(((0, 384),))
    seen = set(Queries(mask, blocks).visible_blocks(blocks))
    of_first = {(query, key) for query in range(4) for key in range(max(query + 1, 3))}
    assert seen == of_first | {(4, 4), (5, 4), (5, 5)}
    unbiased = {(i, j) for i, j in seen if mask.bias(blocks[i], blocks[j]) is None}
    assert unbiased == {(query, key) for query in range(4) for key in range(max(query, 2))} | {
        (5, 4)
    }


@BOTH
def test_a_prefix_of_everything_hides_nothing(operator: Operator) -> None:
    assert_formula(operator, (2, 200, 2, 1, 4), "float32", prefix_ends=np.full((2, 200), 200))


@BOTH
def test_long_sequences(operator: Operator) -> None:
    """Beyond 8 x 128 positions the blocks of plain attention grow."""
    assert_formula(operator, (1, 1200, 1, 1, 2), "float32")


@BOTH
def test_scores_beyond_the_range_of_exp(operator: Operator) -> None:
    q, k, v = (paddle.to_tensor(100 * x).astype("float32") for x in arrays(1, 100, 1, 1, 4))
    q.stop_gradient = False
    y = operator(q, k, v, Mask())
    y.sum().backward()
    assert np.isfinite(y.numpy()).all()
    assert np.isfinite(q.grad.numpy()).all()


@BOTH
def test_frozen_keys(operator: Operator) -> None:
    q, k, v = (paddle.to_tensor(x).astype("float32") for x in arrays(1, 5, 2, 1, 3))
    q.stop_gradient = v.stop_gradient = False
    operator(q, k, v, Mask()).sum().backward()
    assert k.grad is None
    assert q.grad is not None
    assert v.grad is not None


@BOTH
def test_nothing_hidden_leaks(operator: Operator) -> None:
    """What is changed behind a position, or in another document, leaves its output as it was."""
    q, k, v = (paddle.to_tensor(x).astype("float32") for x in arrays(1, 200, 2, 2, 4))
    mask = Mask(document_starts=np.array([[0] * 50 + [50] * 150]))
    before = operator(q, k, v, mask).numpy()
    for x in (k, v):
        x[:, :50] = x[:, 150:] = 100.0
    after = operator(q, k, v, mask).numpy()
    np.testing.assert_array_equal(before[:, 50:150], after[:, 50:150])
    assert (before[:, 150:] != after[:, 150:]).any()


@pytest.mark.gpu
@pytest.mark.skipif(not paddle.is_compiled_with_cuda(), reason="needs a GPU")
def test_the_kernel_of_a_gpu() -> None:
    assert paddle_attention.device_has_kernel()
    OPERATORS["attention"].serve_by("Paddle's kernel")
    try:
        for operator in (ops.attention, ops.flash_attention):
            assert_formula(operator, (2, 300, 4, 2, 64), "bfloat16")
    finally:
        dispatch.use_references()
