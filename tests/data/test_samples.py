"""Samples whose documents are kept apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm_pretrain.config import DataArguments
from llm_pretrain.data import BatchLoader, Datasets, IndexedWriter, SampleCounts, build_datasets
from llm_pretrain.data.samples import document_starts

END = 9


@pytest.mark.parametrize(
    ("tokens", "starts"),
    [
        ([1, 2, END, 3, 4], [0, 0, 0, 3, 3]),
        ([END, 1, 2, 3, END], [0, 1, 1, 1, 1]),
        ([END, END, 8, 1, 2], [0, 1, 2, 3, 3]),
        ([1, 2, 3, 4, 5], [0, 0, 0, 0, 0]),
        ([1], [0]),
    ],
)
def test_a_document_begins_after_an_end_token(tokens: list[int], starts: list[int]) -> None:
    assert document_starts(np.array(tokens), (END, 8)).tolist() == starts


def build(folder: Path, **changes: Any) -> Datasets:
    """Samples of 16 tokens from documents of 5, of which the last is END."""
    with IndexedWriter(folder / "text", np.uint16) as writer:
        for number in range(60):
            writer.add_document(np.array([10 + number, 1, 2, 3, END]))
    return build_datasets(
        DataArguments(input_dir=str(folder), split="8,1,1", max_seq_length=16, **changes),
        SampleCounts(train=10, valid=1),
        seed=1,
        builder=True,
        vocab_size=100,
        end_tokens=(END,),
    )


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        (["reset_attention_mask"], {"document_starts"}),
        (["reset_position_ids"], {"position_ids"}),
        (["reset_attention_mask", "reset_position_ids"], {"document_starts", "position_ids"}),
    ],
)
def test_each_key_adds_its_own(tmp_path: Path, keys: list[str], names: set[str]) -> None:
    plain, datasets = build(tmp_path), build(tmp_path, **dict.fromkeys(keys, True))
    assert plain.notices == ()
    assert f"ends with the token {END}" in datasets.notices[0]
    assert set(datasets.valid[0].structure) == names
    assert len(datasets.train) == len(plain.train)
    with (
        BatchLoader(plain.train, batch_size=3, rank=0, degree=1) as expected,
        BatchLoader(datasets.train, batch_size=3, rank=0, degree=1) as loader,
    ):
        before, batch = next(expected), next(loader)
    np.testing.assert_array_equal(batch.tokens, before.tokens)
    np.testing.assert_array_equal(batch.labels, before.labels)
    assert before.structure == {}
    for row, tokens in enumerate(batch.tokens):
        for place, token in enumerate(tokens):
            # Each document is a number above 9, then 1, 2, 3, END.
            within = 0 if token > END else 4 if token == END else int(token)
            start = max(0, place - within)
            if "document_starts" in names:
                assert batch.structure["document_starts"][row, place] == start
            if "position_ids" in names:
                assert batch.structure["position_ids"][row, place] == place - start


@pytest.mark.parametrize("length", [2, 4, 8, 16])
def test_parts_of_samples_know_nothing_of_what_precedes_them(tmp_path: Path, length: int) -> None:
    keys = dict.fromkeys(["reset_attention_mask", "reset_position_ids"], True)
    with BatchLoader(build(tmp_path, **keys).train, batch_size=3, rank=0, degree=1) as loader:
        next(loader)
        batch = next(loader)
    cut = batch.cut(length)
    assert cut.tokens.shape == cut.labels.shape == (3 * 16 // length, length)
    assert cut.first_sample == 3 * 16 // length
    row = 0
    for tokens, labels in zip(batch.tokens.tolist(), batch.labels.tolist(), strict=True):
        for begin in range(0, 16, length):
            part = tokens[begin : begin + length]
            assert cut.tokens[row].tolist() == part
            assert cut.labels[row].tolist() == labels[begin : begin + length]
            starts = document_starts(np.array(part), (END,)).tolist()
            assert cut.structure["document_starts"][row].tolist() == starts
            assert cut.structure["position_ids"][row].tolist() == [
                place - start for place, start in enumerate(starts)
            ]
            row += 1
