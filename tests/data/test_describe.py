from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llm_pretrain.config import DataArguments
from llm_pretrain.data import DataError, IndexedWriter, SampleCounts, describe_data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with IndexedWriter(tmp_path / "web", np.uint16) as writer:
        for document in range(1000):
            writer.add_document([document, 7, 7])
    return tmp_path


def arguments(folder: Path, **changes) -> DataArguments:
    return DataArguments(input_dir=str(folder), max_seq_length=10, **changes)


def test_files_documents_tokens_and_splits(folder: Path) -> None:
    text = "\n".join(describe_data(arguments(folder)))
    assert "web.bin" in text
    assert "1,000 documents, 3,000 tokens of type uint16" in text
    assert "train: 949 documents, 2,847 tokens" in text
    assert "valid: 50 documents, 150 tokens" in text
    assert "test: 1 documents, 3 tokens" in text


def test_nothing_is_written(folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    describe_data(arguments(folder), counts=SampleCounts(train=100), vocab_size=1000)
    assert sorted(folder.rglob("*")) == before


def test_wanted_samples_are_epochs(folder: Path) -> None:
    text = "\n".join(describe_data(arguments(folder), counts=SampleCounts(train=569)))
    assert "569 samples are 2.00 epochs" in text
    with pytest.raises(DataError, match="test split"):
        describe_data(arguments(folder), counts=SampleCounts(test=1))


def test_ids_are_checked(folder: Path) -> None:
    text = "\n".join(describe_data(arguments(folder), vocab_size=1000))
    assert "token ids: 0 to 999, vocabulary 1,000" in text
    with pytest.raises(DataError, match="token id 999"):
        describe_data(arguments(folder), vocab_size=999)
    assert "by their type" in "\n".join(describe_data(arguments(folder), vocab_size=65536))


def test_blend_and_sentences(folder: Path) -> None:
    with IndexedWriter(folder / "books", np.int32) as writer:
        for _ in range(100):
            writer.add_sequence([1] * 5)
            writer.add_sequence([2] * 5)
            writer.end_document()
    data = DataArguments(input_dir=f"3 {folder}/web 1 {folder}/books", max_seq_length=10)
    text = "\n".join(describe_data(data))
    assert "75.0000% of the samples are from:" in text
    assert "100 documents in 200 sequences, 1,000 tokens of type int32" in text
