"""Random bits depend on where they are used alone, and are as good as independent."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from llm_pretrain.ops import random_bits

SAMPLES, POSITIONS, HEADS, COLUMNS = (np.arange(n) for n in (4, 64, 8, 128))


def kept(
    samples: np.ndarray = SAMPLES,
    positions: np.ndarray = POSITIONS,
    heads: np.ndarray = HEADS,
    columns: np.ndarray = COLUMNS,
    dropout: float = 0.5,
    seed: int = 0,
    place: str = "layers.0.attention",
) -> np.ndarray:
    """[samples, heads, positions, columns]."""
    numbers_BS = paddle.to_tensor(random_bits.numbers(seed, place, samples, positions))
    numbers_BNS = random_bits.numbers_of_heads(numbers_BS, heads)
    return random_bits.keep(numbers_BNS, columns, dropout).numpy()


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel().astype(float), b.ravel().astype(float))[0, 1])


def test_a_part_has_the_bits_of_the_whole() -> None:
    samples, heads, positions, columns = (
        part.tolist() for part in (SAMPLES[2:], HEADS[3:5], POSITIONS[[5, 1, 40]], COLUMNS[100:])
    )
    part = kept(*map(np.array, (samples, positions, heads, columns)))
    np.testing.assert_array_equal(part, kept()[np.ix_(samples, heads, positions, columns)])


@pytest.mark.parametrize("dropout", [0.0, 0.1, 0.5, 0.9])
def test_the_share_that_is_kept(dropout: float) -> None:
    """Within 4 standard deviations of 262,144 independent draws; of each row and column, too."""
    bits = kept(dropout=dropout)
    deviation = np.sqrt(dropout * (1 - dropout))
    assert abs(bits.mean() - (1 - dropout)) <= 4 * deviation / np.sqrt(bits.size)
    for axis in range(4):
        others = tuple(i for i in range(4) if i != axis)
        share = bits.mean(axis=others)
        assert np.abs(share - (1 - dropout)).max() <= 5 * deviation / np.sqrt(
            bits.size // len(share)
        )


@pytest.mark.parametrize("axis", range(4), ids=["samples", "heads", "positions", "columns"])
@pytest.mark.parametrize("distance", [1, 2])
def test_neighbours_do_not_correlate(axis: int, distance: int) -> None:
    bits = kept()
    first = np.take(bits, range(bits.shape[axis] - distance), axis)
    second = np.take(bits, range(distance, bits.shape[axis]), axis)
    assert abs(correlation(first, second)) < 5 / np.sqrt(first.size)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"place": "layers.1.attention"}, id="place"),
        pytest.param({"seed": 1}, id="seed"),
        pytest.param({"samples": SAMPLES + 1000}, id="samples"),
        pytest.param({"samples": SAMPLES + (1 << 40)}, id="samples beyond 32 bits"),
    ],
)
def test_other_places_do_not_correlate(other: dict[str, object]) -> None:
    bits, others = kept(), kept(**other)  # type: ignore[arg-type]
    assert abs(correlation(bits, others)) < 5 / np.sqrt(bits.size)


def test_positions_and_columns_are_not_interchangeable() -> None:
    """The bits of (i, j) and (j, i) are independent: dropout of attention is not symmetric."""
    square = kept(columns=POSITIONS)
    above = np.triu_indices(len(POSITIONS), 1)
    pairs = square[..., above[0], above[1]], square.swapaxes(2, 3)[..., above[0], above[1]]
    assert abs(correlation(*pairs)) < 5 / np.sqrt(pairs[0].size)
