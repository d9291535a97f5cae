"""Whatever the numbers of heads and ranks, each query head attends to its own key head."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import paddle
import pytest

from llm_pretrain import ops
from llm_pretrain.config.degrees import divisors
from llm_pretrain.parallel.comm import topology
from llm_pretrain.parallel.layers.attention import LocalHeads, local_heads


def all_ranks(
    heads: int, key_heads: int, degree: int, monkeypatch: pytest.MonkeyPatch
) -> list[LocalHeads]:
    found = []
    for rank in range(degree):
        here = topology.current()
        degrees = replace(here.degrees, tensor=degree)
        monkeypatch.setattr(topology, "_current", replace(here, degrees=degrees, tensor_rank=rank))
        found.append(local_heads(heads, key_heads))
    return found


def key_of_every_query(local: LocalHeads, parts: int) -> list[int]:
    """As operators see it: each head of keys serves equally many consecutive query heads."""
    repeated = np.repeat(local.first_key + np.arange(local.keys), local.repeats(parts))
    assert local.queries % parts == 0
    assert len(repeated) % parts == 0
    assert local.queries % len(repeated) == 0
    return np.repeat(repeated, local.queries // len(repeated)).tolist()


def test_heads_drawn_at_random(monkeypatch: pytest.MonkeyPatch) -> None:
    random = Random(0)
    for _ in range(400):
        key_heads, group = random.randint(1, 12), random.randint(1, 12)
        heads = key_heads * group
        degree = random.choice(divisors(heads))
        parts = random.choice(divisors(heads // degree))
        ranks = all_ranks(heads, key_heads, degree, monkeypatch)
        assert [local.first_query for local in ranks] == list(range(0, heads, heads // degree))
        own = [key for local in ranks for key in key_of_every_query(local, parts)]
        assert own == [query // group for query in range(heads)], (heads, key_heads, degree, parts)
        for local in ranks:
            # A rank has no key head that it doesn't need.
            assert min(local.queries_of_key) > 0
            assert local.keys_are_split == (key_heads % degree == 0)
            if local.keys_are_split and local.keys % parts == 0:
                assert set(local.repeats(parts)) == {1}


@pytest.mark.parametrize(
    ("heads", "key_heads", "degree", "parts", "repeats"),
    [
        (6, 3, 2, 1, [(2, 1), (1, 2)]),
        (24, 8, 3, 1, [(3, 3, 2), (1, 3, 3, 1), (2, 3, 3)]),
        (24, 3, 2, 1, [(2, 1), (1, 2)]),
        (28, 4, 7, 1, [(1,), (3, 1), (1,), (1, 1), (1,), (1, 3), (1,)]),
        (32, 8, 16, 1, [(1,)] * 16),
        (32, 8, 4, 4, [(2, 2)] * 4),
        (12, 2, 1, 4, [(2, 2)]),
    ],
)
def test_keys_are_repeated_no_more_than_they_must(
    heads: int,
    key_heads: int,
    degree: int,
    parts: int,
    repeats: list[tuple[int, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ranks = all_ranks(heads, key_heads, degree, monkeypatch)
    assert [local.repeats(parts) for local in ranks] == repeats


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_gradient_of_repeated_heads_is_summed_in_float32(dtype: str) -> None:
    x = paddle.arange(24).reshape([1, 2, 3, 4]).astype(dtype)
    x.stop_gradient = False
    y = ops.repeat_heads(x, (1, 40, 2))
    assert y.shape == [1, 2, 43, 4]
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(
        y.astype("float32").numpy(), np.repeat(x.astype("float32").numpy(), (1, 40, 2), axis=2)
    )
    # 40 summands of 1 + 2⁻⁷, of which a sum in bfloat16 would lose the fractions.
    y.backward(paddle.full(y.shape, 1 + 2**-7).astype(dtype))
    exact = paddle.to_tensor([1, 40, 2]).astype("float32") * (1 + 2**-7)
    assert x.grad.dtype == x.dtype
    for head, expected in enumerate(exact.astype(dtype).astype("float32").numpy()):
        assert (x.grad[:, :, head].astype("float32").numpy() == expected).all()
