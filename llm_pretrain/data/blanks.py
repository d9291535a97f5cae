"""Samples of text with blanks, for models that fill them (Du et al., arXiv:2103.10360).

A sample is one text with blanks (`data/cut_blanks.py`), or where its documents are kept apart, each
of them with blanks of its own, one after another. Only the last is cut short, where the sample is
full. The paper's packing of several short-blank samples into one, and its 2 % of cut texts and of
single blanks, are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llm_pretrain.config.model_config import BlankInfilling
from llm_pretrain.data.cut_blanks import TextWithBlanks, cut_blanks
from llm_pretrain.data.documents import Isolation
from llm_pretrain.data.errors import DataError
from llm_pretrain.data.samples import Sample, Texts

_LEAST_LENGTH = 16

Tokens = NDArray[np.int64]


@dataclass(frozen=True)
class SampleWithBlanks:
    """An `Example` whose structure has where prefixes end, positions, and what the model and the
    isolation of documents need besides."""

    inputs: Tokens
    labels: Tokens
    structure: Mapping[str, Tokens]


class SamplesWithBlanks:
    """Every text with blanks in it, which the seed and the sample's number alone decide.

    Args:
        isolation: how the documents of a text are kept apart; None: a text is one whole.

    Raises:
        DataError: the texts are too short to have blanks.
    """

    def __init__(
        self,
        texts: Texts,
        blanks: BlankInfilling,
        seed: int,
        isolation: Isolation | None = None,
    ) -> None:
        self.texts = texts
        self.blanks = blanks
        self.seed = seed
        self.isolation = isolation
        length = len(texts[0].inputs)
        if length < _LEAST_LENGTH:
            raise DataError(
                f"max_seq_length is {length}: a sample with blanks takes {_LEAST_LENGTH} or more."
            )

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, number: int) -> SampleWithBlanks:
        text = self.texts[number]
        generator = np.random.default_rng((self.seed, number))
        documents = [text] if self.isolation is None else self.isolation.documents_of(text)
        parts = self._with_blanks(documents, len(text.inputs), generator)
        return SampleWithBlanks(
            np.concatenate([part.inputs for part in parts]),
            np.concatenate([part.labels for part in parts]),
            self._structure(parts),
        )

    def _with_blanks(
        self, documents: Sequence[Sample], length: int, generator: np.random.Generator
    ) -> list[TextWithBlanks]:
        """The first of the documents with blanks, which take `length` places together."""
        parts = []
        room = length
        for document in documents:
            parts.append(cut_blanks(document, room, self.blanks, generator))
            room -= len(parts[-1].inputs)
            if not room:
                break
        assert not room, "with its blanks no text takes fewer places than it has tokens"
        return parts

    def _structure(self, parts: list[TextWithBlanks]) -> dict[str, Tokens]:
        sizes = [len(part.inputs) for part in parts]
        starts = np.cumsum([0, *sizes[:-1]])
        prefixes = [part.prefix for part in parts]
        start_of_place = np.repeat(starts, sizes)
        positions = np.concatenate([part.positions for part in parts])
        counts_anew = self.isolation is not None and self.isolation.counted_anew
        structure = {
            "prefix_ends": np.repeat(starts + prefixes, sizes),
            "position_ids": positions if counts_anew else positions + start_of_place,
        }
        if self.blanks.block_positions:
            structure["block_position_ids"] = np.concatenate(
                [part.block_positions for part in parts]
            )
        if self.isolation is not None and self.isolation.apart:
            structure["document_starts"] = start_of_place
        return structure
