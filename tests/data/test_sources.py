from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_pretrain.data import DataError
from llm_pretrain.data.sources import check_wanted, parse_split, split_documents


@pytest.mark.parametrize(
    ("split", "documents", "boundaries"),
    [
        ("949,50,1", 1000, [949, 999, 1000]),
        ("949/50/1", 1000, [949, 999, 1000]),
        ("949,50,1", 10, [10, 10, 10]),
        ("1", 7, [7, 7, 7]),
        ("8,2", 10, [8, 10, 10]),
        # Halves are rounded to even, and train takes what is missing.
        ("0.5,0.5", 5, [3, 5, 5]),
        ("1,1,1", 1, [1, 1, 1]),
        ("0,1,1", 3, [0, 1, 3]),
        (" 90 , 5 , 5 ", 100, [90, 95, 100]),
    ],
)
def test_boundaries(split: str, documents: int, boundaries: list[int]) -> None:
    ranges = split_documents(split, documents)
    assert [r.stop for r in ranges.values()] == boundaries
    assert [r.start for r in ranges.values()] == [0, *boundaries[:2]]


@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=3).filter(lambda shares: sum(shares) > 0),
    st.integers(1, 10**9),
)
def test_every_document_is_in_one_split(shares: list[float], documents: int) -> None:
    ranges = list(split_documents(",".join(map(str, shares)), documents).values())
    assert ranges[0].start == 0
    assert ranges[-1].stop == documents
    assert ranges[0].stop == ranges[1].start <= ranges[1].stop == ranges[2].start <= documents


@pytest.mark.parametrize("split", ["", "a,b", "1,2,3,4", "-1,2", "nan,1", "inf", "0,0,0", "1;2"])
def test_what_is_not_a_split_is_an_error(split: str) -> None:
    with pytest.raises(DataError, match="split is"):
        parse_split(split)


def test_wanted_split_without_documents_is_an_error() -> None:
    ranges = split_documents("949,50,1", 10)
    check_wanted("949,50,1", ranges, {"train": 5, "valid": 0, "test": 0}, "web")
    with pytest.raises(DataError, match=r'split "949,50,1" gives no document of web to valid'):
        check_wanted("949,50,1", ranges, {"train": 5, "valid": 1, "test": 0}, "web")
