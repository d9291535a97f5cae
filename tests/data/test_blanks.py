"""Samples with blanks: what was cut out stands at the end, and is all that is predicted."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm_pretrain.config import DataArguments
from llm_pretrain.config.model_config import BlankInfilling
from llm_pretrain.data import (
    BatchLoader,
    DataError,
    IndexedWriter,
    Sample,
    SampleCounts,
    build_datasets,
)
from llm_pretrain.data.blanks import SamplesWithBlanks
from llm_pretrain.data.samples import IGNORED_LABEL, StructuredSample

MASK, GMASK, START, END = 1000, 1001, 1002, 1003
SAMPLES = 200


class CountingTexts:
    """Text i counts up from i; where `is_masked`, odd tokens are not to be learned."""

    def __init__(self, length: int, *, is_masked: bool = False) -> None:
        self.length, self.is_masked = length, is_masked

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, number: int) -> Sample:
        if number >= SAMPLES:
            raise IndexError(number)
        tokens = number + np.arange(self.length + 1)
        mask = (tokens % 2 == 0).astype(np.uint8) if self.is_masked else None
        return Sample(tokens, mask)


def samples(length: int = 64, *, seed: int = 0, is_masked: bool = False, **kind: Any) -> Any:
    blanks = BlankInfilling(MASK, GMASK, START, END, **kind)
    return SamplesWithBlanks(CountingTexts(length, is_masked=is_masked), blanks, seed)


def parts(sample: StructuredSample) -> tuple[list[int], list[tuple[list[int], list[int]]]]:
    """The context, and inputs without <sop> and labels of every blank, in their order."""
    prefix = int(sample.structure["prefix_ends"][0])
    assert (sample.labels[:prefix] == IGNORED_LABEL).all()
    starts = [*np.flatnonzero(sample.inputs == START), len(sample.inputs)]
    assert starts[0] == prefix
    blanks = [
        (sample.inputs[begin + 1 : end].tolist(), sample.labels[begin:end].tolist())
        for begin, end in pairwise(starts)
    ]
    return sample.inputs[:prefix].tolist(), blanks


@pytest.mark.parametrize("length", [16, 33, 64])
def test_long_blank_is_the_end_of_the_text(length: int) -> None:
    sizes = []
    for number, sample in enumerate(samples(length)):
        context, [(inputs, labels)] = parts(sample)
        assert len(sample.inputs) == len(sample.labels) == length
        assert context[-1] == GMASK
        assert context[:-1] + labels == list(range(number, number + length - 1))
        assert inputs == labels[:-1]
        sizes.append(len(labels) / (length - 1))
    assert min(sizes) >= 0.15
    assert max(sizes) > 0.95
    assert np.mean(sizes) == pytest.approx(0.6, abs=0.05)


@pytest.mark.parametrize("length", [16, 33, 256])
def test_short_blanks_are_15_percent_of_the_text(length: int) -> None:
    counts, shuffled = [], 0
    for number, sample in enumerate(samples(length, long_share=0.0)):
        context, blanks = parts(sample)
        assert len(sample.inputs) == len(sample.labels) == length
        assert context.count(MASK) == len(blanks)
        for inputs, labels in blanks:
            assert labels == [*inputs, END]
            assert inputs == list(range(inputs[0], inputs[0] + len(inputs)))
        in_order = iter(sorted(inputs for inputs, _ in blanks))
        text = [
            token for piece in context for token in (next(in_order) if piece == MASK else [piece])
        ]
        assert text == list(range(number, number + len(text)))
        assert (MASK, MASK) not in pairwise(context)
        assert sum(len(inputs) for inputs, _ in blanks) == int(0.15 * length)
        counts.append(len(blanks))
        shuffled += blanks != sorted(blanks)
    assert shuffled or max(counts) == 1
    if length == 256:
        # The mean of Poisson(3) without its zeros is 3.16, and the last blank is cut.
        assert int(0.15 * length) / np.mean(counts) == pytest.approx(3.0, abs=0.25)


def test_kinds_are_mixed_in_their_shares() -> None:
    mixed = list(samples(long_share=0.7))
    long = sum(GMASK in sample.inputs for sample in mixed)
    assert long + sum(MASK in sample.inputs for sample in mixed) == SAMPLES
    assert long / SAMPLES == pytest.approx(0.7, abs=0.1)


def test_positions_of_a_long_blank() -> None:
    for plain, paired in zip(samples(), samples(block_positions=True), strict=True):
        prefix = int(plain.structure["prefix_ends"][0])
        blank = 64 - prefix
        assert plain.structure["position_ids"].tolist() == list(range(64))
        assert "block_position_ids" not in plain.structure
        np.testing.assert_array_equal(
            paired.structure["position_ids"], [*range(prefix), *[prefix - 1] * blank]
        )
        np.testing.assert_array_equal(
            paired.structure["block_position_ids"], [*[0] * prefix, *range(1, blank + 1)]
        )


def test_a_short_blank_stands_where_its_mask_does() -> None:
    for sample in samples(long_share=0.0, block_positions=True):
        context, blanks = parts(sample)
        positions, prefix = sample.structure["position_ids"], len(context)
        assert positions[:prefix].tolist() == list(range(prefix))
        masks = [place for place, token in enumerate(context) if token == MASK]
        place_of = dict(zip(sorted(inputs[0] for inputs, _ in blanks), masks, strict=True))
        expected = [place_of[inputs[0]] for inputs, labels in blanks for _ in labels]
        assert positions[prefix:].tolist() == expected
        counted = [1 + count for _, labels in blanks for count in range(len(labels))]
        assert sample.structure["block_position_ids"].tolist() == [0] * prefix + counted


@pytest.mark.parametrize("long_share", [0.0, 1.0])
def test_what_is_not_to_be_learned_is_no_label(long_share: float) -> None:
    every = samples(long_share=long_share)
    for sample, whole in zip(samples(is_masked=True, long_share=long_share), every, strict=True):
        np.testing.assert_array_equal(sample.inputs, whole.inputs)
        is_odd = (whole.labels % 2 == 1) & (whole.labels != END)
        np.testing.assert_array_equal(sample.labels, np.where(is_odd, IGNORED_LABEL, whole.labels))


def test_a_sample_depends_on_seed_and_number_alone() -> None:
    def contents(seed: int, order: list[int]) -> dict[int, list[int]]:
        dataset = samples(seed=seed, long_share=0.5)
        return {number: dataset[number].inputs.tolist() for number in order}

    forward = contents(5, list(range(20)))
    assert contents(5, list(reversed(range(20)))) == forward
    assert contents(6, list(range(20))) != forward


def test_samples_are_those_of_earlier_versions() -> None:
    """So a run goes on with the text that it would have read."""
    dataset = samples(27, seed=7, long_share=0.5, block_positions=True)
    short, long = dataset[30], samples(16, seed=7)[3]
    context = [*range(30, 38), MASK, *range(40, 51), MASK]
    ignored = [IGNORED_LABEL] * 21
    assert short.inputs.tolist() == [*context, START, 51, 52, START, 38, 39]
    assert short.labels.tolist() == [*ignored, 51, 52, END, 38, 39, END]
    assert short.structure["position_ids"].tolist() == [*range(21), 20, 20, 20, 8, 8, 8]
    assert long.inputs.tolist() == [*range(3, 9), GMASK, START, *range(9, 17)]
    assert long.labels.tolist() == [*ignored[:7], *range(9, 18)]
    assert short.structure["prefix_ends"].tolist() == [21] * 27
    assert set(long.structure) == {"prefix_ends", "position_ids"}


def test_batches_carry_the_structure() -> None:
    dataset = samples(long_share=0.5, block_positions=True)
    with BatchLoader(dataset, batch_size=3, rank=1, degree=2, workers=2) as loader:
        batch = next(loader)
    assert batch.structure["prefix_ends"].shape == (3, 64)
    for row, number in enumerate((3, 4, 5)):
        np.testing.assert_array_equal(batch.tokens[row], dataset[number].inputs)
        np.testing.assert_array_equal(batch.labels[row], dataset[number].labels)
        for name, rows in batch.structure.items():
            np.testing.assert_array_equal(rows[row], dataset[number].structure[name])


@pytest.mark.parametrize("sources", [["web"], ["web", "books"]])
def test_a_dataset_for_a_model_that_fills_blanks(tmp_path: Path, sources: list[str]) -> None:
    for source in sources:
        with IndexedWriter(tmp_path / source, np.uint16) as writer:
            for _ in range(40):
                writer.add_document(np.arange(50))
    data = DataArguments(input_dir=str(tmp_path), split="8,1,1", max_seq_length=32)
    options: dict[str, Any] = {"seed": 3, "builder": True, "vocab_size": 2000}
    texts = build_datasets(data, SampleCounts(train=20), **options).train
    blanks = BlankInfilling(MASK, GMASK, START, END)
    datasets = build_datasets(data, SampleCounts(train=20), blanks=blanks, **options)
    assert "blanks" in datasets.notices[0]
    assert len(datasets.train) == len(texts) >= 20
    for number in range(20):
        context, [(_, labels)] = parts(datasets.train[number])
        assert context[:-1] + labels == texts[number].tokens[:31].tolist()


def test_texts_too_short_for_blanks() -> None:
    with pytest.raises(DataError, match=r"max_seq_length is 15: .* 16 or more"):
        samples(15)
