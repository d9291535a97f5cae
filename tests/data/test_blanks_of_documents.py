"""Documents kept apart in samples with blanks: each has its own, and only the last is cut short."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm_pretrain.config import DataArguments
from llm_pretrain.config.model_config import BlankInfilling
from llm_pretrain.data import IndexedWriter, Sample, SampleCounts, build_datasets
from llm_pretrain.data.blanks import SamplesWithBlanks
from llm_pretrain.data.samples import IGNORED_LABEL, Isolation, StructuredSample

# Numbers above those of the texts, so that a text's tokens never fall.
MASK, GMASK, START, END = 1000, 1001, 1002, 1003
SAMPLES, LENGTH = 200, 64


class Documents:
    """Text i counts up; END stands in for some of its tokens, with that chance."""

    def __init__(self, chance: float, *, is_masked: bool = False) -> None:
        self.chance, self.is_masked = chance, is_masked

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, number: int) -> Sample:
        if number >= SAMPLES:
            raise IndexError(number)
        tokens = number + np.arange(LENGTH + 1)
        ends = np.random.default_rng(number).random(LENGTH + 1) < self.chance
        mask = (np.arange(LENGTH + 1) % 3 > 0).astype(np.uint8) if self.is_masked else None
        return Sample(np.where(ends, END, tokens), mask)


def samples(
    chance: float = 0.06,
    *,
    apart: bool = True,
    counted_anew: bool = True,
    is_masked: bool = False,
    **kind: Any,
) -> Any:
    blanks = BlankInfilling(MASK, GMASK, START, END, **{"block_positions": True, **kind})
    isolation = Isolation((END,), apart, counted_anew)
    return SamplesWithBlanks(Documents(chance, is_masked=is_masked), blanks, 3, isolation)


def documents_of(tokens: np.ndarray) -> list[list[int]]:
    documents: list[list[int]] = [[]]
    for token in tokens.tolist():
        documents[-1].append(token)
        if token == END:
            documents.append([])
    return [document for document in documents if document]


@dataclass(frozen=True)
class Part:
    """What a sample has of one document."""

    start: int
    context: list[int]
    blanks: list[tuple[list[int], list[int]]]
    """Inputs without <sop> and labels of each, in the order of the text."""
    positions: np.ndarray
    block_positions: np.ndarray

    @property
    def text(self) -> list[int]:
        if GMASK in self.context:
            return self.context[:-1] + self.blanks[0][1]
        cut_out = iter([inputs for inputs, _ in self.blanks])
        pieces = (next(cut_out) if token == MASK else [token] for token in self.context)
        return [token for piece in pieces for token in piece]


def parts_of(sample: StructuredSample) -> list[Part]:
    structure = sample.structure
    starts = np.unique(structure["document_starts"])
    found = []
    for start, end in pairwise([*starts.tolist(), len(sample.inputs)]):
        assert (structure["document_starts"][start:end] == start).all()
        (prefix_end,) = np.unique(structure["prefix_ends"][start:end]).tolist()
        assert (sample.labels[start:prefix_end] == IGNORED_LABEL).all()
        begins = prefix_end + np.flatnonzero(sample.inputs[prefix_end:end] == START)
        assert len(begins) == 0 or begins[0] == prefix_end
        blanks = [
            (sample.inputs[begin + 1 : stop].tolist(), sample.labels[begin:stop].tolist())
            for begin, stop in pairwise([*begins.tolist(), end])
        ]
        found.append(
            Part(
                start,
                sample.inputs[start:prefix_end].tolist(),
                sorted(blanks),
                structure["position_ids"][start:end],
                structure["block_position_ids"][start:end],
            )
        )
    return found


@pytest.mark.parametrize("long_share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("chance", [0.0, 0.06, 0.4, 1.0])
def test_all_documents_but_the_last_are_whole(chance: float, long_share: float) -> None:
    texts, cut = Documents(chance), 0
    for number, sample in enumerate(samples(chance, long_share=long_share)):
        assert len(sample.inputs) == len(sample.labels) == LENGTH
        assert all(len(values) == LENGTH for values in sample.structure.values())
        parts = parts_of(sample)
        documents = documents_of(texts[number].tokens)[: len(parts)]
        assert [part.text for part in parts[:-1]] == documents[:-1]
        last = parts[-1].text
        assert last == documents[-1][: len(last)]
        cut += last != documents[-1]
    # Documents of one token take two places each, which fill the sample.
    assert cut or chance == 1.0


@pytest.mark.parametrize("long_share", [0.0, 1.0])
def test_every_document_has_blanks_of_its_kind(long_share: float) -> None:
    lone = 0
    for sample in samples(long_share=long_share):
        parts = parts_of(sample)
        for part in parts:
            if not part.blanks:
                # Where one place was left.
                assert part.start == LENGTH - 1
                lone += 1
                continue
            is_long = GMASK in part.context
            if part is not parts[-1]:
                # Of six tokens 15 % is less than one.
                assert is_long == (long_share == 1.0 or len(part.text) < 7)
            if is_long:
                [(inputs, labels)] = part.blanks
                assert inputs == labels[:-1]
            else:
                assert all(labels == [*inputs, END] for inputs, labels in part.blanks)
                assert part.context.count(MASK) == len(part.blanks)
    assert lone


def test_kinds_are_drawn_for_each_document() -> None:
    kinds = [
        {GMASK in part.context for part in parts_of(sample) if len(part.text) >= 10}
        for sample in samples(long_share=0.5)
    ]
    assert {True, False} in kinds


def test_positions_count_from_the_start_of_a_document() -> None:
    for sample in samples(long_share=0.5):
        for part in parts_of(sample):
            prefix = len(part.context)
            assert part.positions[:prefix].tolist() == list(range(prefix))
            assert not part.block_positions[:prefix].any()
            masks = [place for place, token in enumerate(part.context) if token in (MASK, GMASK)]
            place_of = dict(zip([labels[0] for _, labels in part.blanks], masks, strict=True))
            place = prefix
            while place < len(part.positions):
                label = int(sample.labels[part.start + place])
                size = next(len(labels) for _, labels in part.blanks if labels[0] == label)
                here = slice(place, place + size)
                assert part.positions[here].tolist() == [place_of[label]] * size
                assert part.block_positions[here].tolist() == list(range(1, size + 1))
                place += size


def test_positions_in_one_dimension_count_on_through_a_long_blank() -> None:
    for sample in samples(block_positions=False, long_share=1.0):
        assert "block_position_ids" not in sample.structure
        starts = sample.structure["document_starts"]
        np.testing.assert_array_equal(sample.structure["position_ids"], np.arange(LENGTH) - starts)


def test_each_key_changes_its_own_part_of_the_structure() -> None:
    both = samples(long_share=0.5)
    masks = samples(long_share=0.5, counted_anew=False)
    positions = samples(long_share=0.5, apart=False)
    for sample, of_masks, of_positions in zip(both, masks, positions, strict=True):
        for other in (of_masks, of_positions):
            np.testing.assert_array_equal(other.inputs, sample.inputs)
            np.testing.assert_array_equal(other.labels, sample.labels)
        expected, starts = dict(sample.structure), sample.structure["document_starts"]
        expected["position_ids"] = expected["position_ids"] + starts
        np.testing.assert_equal(dict(of_masks.structure), expected)
        expected = dict(sample.structure)
        del expected["document_starts"]
        np.testing.assert_equal(dict(of_positions.structure), expected)


def test_what_is_not_to_be_learned_is_no_label() -> None:
    for long_share in (0.0, 1.0):
        masked = samples(0.06, is_masked=True, long_share=long_share)
        for number, (sample, whole) in enumerate(
            zip(masked, samples(0.06, long_share=long_share), strict=True)
        ):
            np.testing.assert_array_equal(sample.inputs, whole.inputs)
            hidden = (sample.labels == IGNORED_LABEL) & (whole.labels != IGNORED_LABEL)
            is_token = (whole.labels >= 0) & (whole.labels != END)
            is_left_out = is_token & ((whole.labels - number) % 3 == 0)
            np.testing.assert_array_equal(hidden & is_token, is_left_out)
            shown = ~hidden
            np.testing.assert_array_equal(sample.labels[shown], whole.labels[shown])


def test_a_text_of_one_document_is_what_it_is_without_isolation() -> None:
    blanks = BlankInfilling(MASK, GMASK, START, END, long_share=0.5, block_positions=True)
    whole = SamplesWithBlanks(Documents(0.0), blanks, 3)
    for sample, plain in zip(samples(0.0, long_share=0.5), whole, strict=True):
        np.testing.assert_array_equal(sample.inputs, plain.inputs)
        np.testing.assert_array_equal(sample.labels, plain.labels)
        expected = {**plain.structure, "document_starts": np.zeros(LENGTH)}
        np.testing.assert_equal(dict(sample.structure), expected)


def test_the_data_arguments_keep_documents_apart(tmp_path: Path) -> None:
    with IndexedWriter(tmp_path / "text", np.uint16) as writer:
        for number in range(60):
            writer.add_document(np.array([number, 61, 62, 63, END]))

    def first_structure(**keys: bool) -> Any:
        datasets = build_datasets(
            DataArguments(input_dir=str(tmp_path), split="8,1,1", max_seq_length=16, **keys),
            SampleCounts(train=10),
            seed=1,
            builder=True,
            vocab_size=2000,
            blanks=BlankInfilling(MASK, GMASK, START, END),
            end_tokens=(END,),
        )
        assert any("ends with the token" in line for line in datasets.notices) == bool(keys)
        return datasets.train[0].structure

    assert len(np.unique(first_structure()["prefix_ends"])) == 1
    masks = first_structure(reset_attention_mask=True)
    assert len(np.unique(masks["prefix_ends"])) == len(np.unique(masks["document_starts"])) > 2
    assert masks["position_ids"][-1] > 10
    positions = first_structure(reset_position_ids=True)
    assert "document_starts" not in positions
    assert positions["position_ids"].max() == 5
