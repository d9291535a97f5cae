from __future__ import annotations

import numpy as np
import pytest

from llm_pretrain.preprocess.pair_table import PairTable


@pytest.mark.parametrize("count", [0, 1, 7, 20000])
def test_pairs_are_found_as_in_a_dictionary(count: int) -> None:
    random = np.random.default_rng(0)
    # Ids near one another and far apart; most pairs that are asked for are not there.
    shape = 2, count + 50
    lefts, rights = random.choice([0, 1000, 1 << 30], shape) + random.integers(0, 200, shape)
    merges = {
        pair: (rank, 2 * rank)
        for rank, pair in enumerate(
            zip(lefts[:count].tolist(), rights[:count].tolist(), strict=True)
        )
    }
    found, ranks, tokens = PairTable(merges).find(lefts, rights)
    pairs = list(zip(lefts.tolist(), rights.tolist(), strict=True))
    expected = [(number, *merges[pair]) for number, pair in enumerate(pairs) if pair in merges]
    assert list(zip(found.tolist(), ranks.tolist(), tokens.tolist(), strict=True)) == expected
