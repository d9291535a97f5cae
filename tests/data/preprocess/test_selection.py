"""Which documents are kept: filters, duplicates, sampling, the held-out share, words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_pretrain.data.find_data import find_data
from llm_pretrain.data.preprocess import clean
from llm_pretrain.data.preprocess.clean import SeenHashes

Run = Callable[..., int]
Texts = Callable[[Path], list[str]]


def corpus(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def test_short_documents_are_left_out(
    preprocess: Run, texts: Texts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = corpus(tmp_path / "a.jsonl", [" alpha \n", "alphas", "日本日本日本", "日本日本日"])
    assert preprocess(source, tmp_path / "x", "--min_doc_length", "6") == 0
    assert texts(tmp_path / "x") == ["alphas", "日本日本日本"]
    assert "2 documents left out, shorter than --min_doc_length" in capsys.readouterr().out


def test_the_first_of_equal_documents_is_kept(
    preprocess: Run, texts: Texts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    corpus(tmp_path / "in" / "a.jsonl", ["b", "a", "b\n", " a", "c"])
    corpus(tmp_path / "in" / "b.jsonl", ["d", "c", "a", "e"])
    assert preprocess(tmp_path / "in", tmp_path / "x") == 0
    assert len(texts(tmp_path / "x")) == 9
    assert preprocess(tmp_path / "in", tmp_path / "y", "--remove_duplicates") == 0
    assert texts(tmp_path / "y") == ["b", "a", "c", "d", "e"]
    assert "4 documents left out, there already" in capsys.readouterr().out
    more = ("--remove_duplicates", "--max_doc_num", "4")
    assert preprocess(tmp_path / "in", tmp_path / "z", *more) == 0
    assert texts(tmp_path / "z") == ["b", "a", "c", "d"]


@settings(max_examples=100, derandomize=True, deadline=None)
@given(st.lists(st.lists(st.integers(0, 40), max_size=30), max_size=12), st.integers(0, 3))
def test_seen_hashes_are_a_set(batches: list[list[int]], spread: int) -> None:
    """Whether hashes are far apart or all begin in the same place of the table."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clean, "_FEWEST_SLOTS", 8)
        seen = SeenHashes()
    known: set[int] = set()
    for batch in batches:
        hashes = np.array([(n << 19 * spread, 2 * n) for n in batch], np.uint64).reshape(-1, 2)
        expected = []
        for number in batch:
            expected.append(number not in known)
            known.add(number)
        assert seen.add(hashes).tolist() == expected


def test_memory_of_duplicates_is_what_is_said() -> None:
    seen = SeenHashes()
    hashes = np.random.default_rng(0).integers(0, 1 << 64, (400_000, 2), np.uint64)
    for part in np.array_split(hashes, 100):
        assert seen.add(part).all()
    for part in np.array_split(hashes, 100):
        assert not seen.add(part).any()
    assert 21 <= seen._table.nbytes / len(hashes) <= 43


def test_sampling_and_holding_out_go_by_the_text(
    preprocess: Run, texts: Texts, tmp_path: Path
) -> None:
    everything = [f"document {number}" for number in range(2000)]
    source = corpus(tmp_path / "a.jsonl", everything)
    backward = corpus(tmp_path / "b.jsonl", everything[::-1])
    more = ("--sample_share", "0.5", "--held_out_share", "0.1")
    assert preprocess(source, tmp_path / "x" / "a", *more) == 0
    assert preprocess(backward, tmp_path / "x" / "b", *more) == 0
    kept = texts(tmp_path / "x" / "a")
    held_out = texts(tmp_path / "x" / "held_out" / "a")
    assert texts(tmp_path / "x" / "b") == kept[::-1]
    assert texts(tmp_path / "x" / "held_out" / "b") == held_out[::-1]
    # Five standard deviations to each side.
    assert abs(len(kept) + len(held_out) - 1000) < 5 * 22.4
    assert abs(len(held_out) - 100) < 5 * 9.5
    assert not set(kept) & set(held_out)
    assert kept == [text for text in everything if text in set(kept)]
    # Training on the folder does not read what was held out.
    assert find_data(str(tmp_path / "x")).prefixes == (tmp_path / "x" / "a", tmp_path / "x" / "b")


def test_words_of_chinese_text_are_separated(preprocess: Run, texts: Texts, tmp_path: Path) -> None:
    pytest.importorskip("jieba")
    source = corpus(tmp_path / "a.jsonl", ["我来到北京清华大学。\n他 来了"])
    assert preprocess(source, tmp_path / "x", "--cn_whole_word_segment") == 0
    assert texts(tmp_path / "x") == ["我 来到 北京 清华大学 。\n他 来 了"]


def test_everything_left_out_is_an_error(
    preprocess: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = corpus(tmp_path / "a.jsonl", ["alpha"])
    for more in (("--sample_share", "0"), ("--held_out_share", "1")):
        assert preprocess(source, tmp_path / "x", *more) == 1
        assert "holds no text that is to be kept" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]
