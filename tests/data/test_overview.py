from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llm_pretrain.config import DataArguments
from llm_pretrain.data import (
    DataError,
    IndexedWriter,
    SampleCounts,
    Sources,
    data_problems,
    describe_data,
    describe_ids,
    lone_validation,
    open_sources,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with IndexedWriter(tmp_path / "web", np.uint16) as writer:
        for document in range(1000):
            writer.add_document([document, 7, 7])
    return tmp_path


def opened(input_dir: object) -> Sources:
    return open_sources(DataArguments(input_dir=str(input_dir), max_seq_length=10))


def rows(*arguments, **options) -> list[list[str]]:
    return [line.split() for line in describe_data(*arguments, **options)]


def test_files_documents_tokens_and_splits(folder: Path) -> None:
    lines = describe_data(opened(folder))
    assert lines[0] == f"{folder}/web.bin: 1,000 documents, 3,000 tokens of type uint16"
    assert [line.split() for line in lines[1:]] == [
        ["documents", "tokens", "samples", "epochs", "split"],
        ["949", "2,847", "0", "-", "train"],
        ["50", "150", "0", "-", "valid"],
        ["1", "3", "0", "-", "test"],
    ]


def test_nothing_is_written(folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    describe_data(opened(folder), counts=SampleCounts(train=100))
    list(describe_ids(opened(folder), 1000))
    assert sorted(folder.rglob("*")) == before


def test_wanted_samples_are_epochs(folder: Path) -> None:
    counts = SampleCounts(train=569, valid=1)
    found = rows(opened(folder), counts=counts)
    assert ["949", "2,847", "569", "2.00", "train"] in found
    assert ["50", "150", "1", "0.067", "valid"] in found
    assert data_problems(opened(folder), counts) == []
    (problem,) = data_problems(opened(folder), SampleCounts(test=1))
    assert "the test split of" in problem


def test_ids_are_checked(folder: Path) -> None:
    assert list(describe_ids(opened(folder), 1000)) == ["token ids: 0 to 999, vocabulary 1,000"]
    with pytest.raises(DataError, match="token id 999"):
        list(describe_ids(opened(folder), 999))
    assert list(describe_ids(opened(folder), 65536)) == [
        "token ids: all below 65,536, by their type"
    ]


def test_no_more_than_a_limit_is_read_of_all_files_together(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("wiki", "books"):
        (folder / f"{name}.bin").write_bytes((folder / "web.bin").read_bytes())
        (folder / f"{name}.idx").write_bytes((folder / "web.idx").read_bytes())
    monkeypatch.setattr("llm_pretrain.data.overview._SCAN_BYTES", 6000)
    assert list(describe_ids(opened(folder), 1000)) == [
        "token ids: 0 to 999, vocabulary 1,000",
        "token ids of 2 files: not looked at yet; training checks them against 1,000",
    ]


def test_blend_and_sentences(folder: Path) -> None:
    with IndexedWriter(folder / "books", np.int32) as writer:
        for _ in range(100):
            writer.add_sequence([1] * 5)
            writer.add_sequence([2] * 5)
            writer.end_document()
    sources = opened(f"3 {folder}/web 1 {folder}/books")
    lines = describe_data(sources, counts=SampleCounts(train=949))
    assert lines[0] == (
        f"2 files in {folder}: 1,100 documents in 1,200 sequences, 4,000 tokens of type int32, "
        "uint16"
    )
    assert [line.split() for line in lines[5:]] == [
        ["documents", "tokens", "share", "epochs", "source"],
        ["1,000", "3,000", "75.00%", "2.50", "web"],
        ["100", "1,000", "25.00%", "2.50", "books"],
    ]


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """300 files; number 123 is the smallest."""
    for number in range(300):
        with IndexedWriter(tmp_path / f"part-of-a-corpus-{number:03}", np.uint16) as writer:
            writer.add_documents(np.zeros(2000, np.uint16), np.full(20, 100, np.int32))
    with IndexedWriter(tmp_path / "part-of-a-corpus-123", np.uint16) as writer:
        writer.add_documents(np.zeros(1000, np.uint16), np.full(20, 50, np.int32))
    return tmp_path


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_of_many_files_a_screen_shows_those_that_are_repeated_most(
    many: Path, columns: int
) -> None:
    counts = SampleCounts(train=9000)
    lines = describe_data(opened(many), counts=counts, columns=columns, everything=False)
    assert len(lines) <= 30
    assert all(len(line) <= columns for line in lines[1:-1])
    assert lines[6].endswith("of-a-corpus-123")
    assert lines[-1] == ("20 of 300 sources, those that training repeats most; --verbose shows all")


def test_of_many_files_all_are_shown_on_demand(many: Path) -> None:
    found = rows(opened(many))
    assert sum(row[-1].startswith("part-of-a-corpus-") for row in found) == 300


def test_problems_of_many_files_are_a_few_and_their_number(many: Path) -> None:
    problems = data_problems(opened(many), SampleCounts(valid=300, test=300))
    assert len(problems) == 5
    assert "part-of-a-corpus-000" in problems[0]
    assert problems[-1].startswith("300 of 300 files can't give their samples")


def test_a_blend_file_has_a_row_for_each_of_its_names(folder: Path) -> None:
    for name in ("a", "b"):
        with IndexedWriter(folder / "books" / name, np.uint16) as writer:
            writer.add_documents(np.zeros(500, np.uint16), np.full(50, 10, np.int32))
    path = folder / "blend.yaml"
    path.write_text(
        "- {name: crawl, path: web, weight: 3}\n- {name: print, path: books, weight: 1}\n"
    )
    short = rows(opened(path), everything=False)[6:]
    assert short == [
        ["1,000", "3,000", "75.00%", "-", "crawl"],
        ["100", "1,000", "25.00%", "-", "print"],
    ]
    assert [row[-1] for row in rows(opened(path))[6:]] == [
        f"{folder}/web",
        f"{folder}/books/a",
        f"{folder}/books/b",
    ]


@pytest.mark.parametrize(
    ("weights", "samples", "lone"),
    [((1, 1), 2, None), ((1, 1), 1, "books"), ((1, 9), 1, "books"), ((1, 1), 0, None)],
)
def test_validation_samples_of_a_single_source_are_said(
    folder: Path, weights: tuple[int, int], samples: int, lone: str | None
) -> None:
    with IndexedWriter(folder / "books", np.uint16) as writer:
        writer.add_documents(np.zeros(500, np.uint16), np.full(50, 10, np.int32))
    sources = opened(f"{weights[0]} {folder}/web {weights[1]} {folder}/books")
    notices = lone_validation(sources, samples)
    assert len(notices) == (lone is not None)
    assert all(f"are all of {lone}, one of 2 sources" in notice for notice in notices)
    assert lone_validation(opened(folder / "web"), 8) == []
