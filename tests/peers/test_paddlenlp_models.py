"""This program's models against those of PaddleNLP, from the same weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.peers.comparison import once_for_each
from tests.peers.like_paddlenlp import assert_like_paddlenlp, run_paddlenlp
from tests.peers.paddlenlp_cases import CASES

pytestmark = pytest.mark.peer_paddlenlp


@pytest.fixture(scope="module")
def directory_of(
    paddlenlp_python: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """The folders of a family's cases with what PaddleNLP made of them, once."""
    return once_for_each(
        tmp_path_factory,
        lambda family, directory: run_paddlenlp(paddlenlp_python, CASES[family], directory),
    )


@pytest.mark.parametrize(("family", "name"), [(f, name) for f in CASES for name in CASES[f]])
def test_trains_and_evaluates_as_paddlenlp_does(
    family: str, name: str, directory_of: Callable[[str], Path]
) -> None:
    assert_like_paddlenlp(CASES[family], name, directory_of(family))
