"""Samples whose documents are kept apart: by what attention sees, by their positions, or both.

The documents of a sample are those that its tokens show: one begins after every end token.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llm_pretrain.data.samples import Sample, Texts

Tokens = NDArray[np.int64]


@dataclass(frozen=True)
class Isolation:
    """How the documents of a sample are kept apart."""

    end_tokens: tuple[int, ...]
    """Ids of which each ends a document and belongs to it."""
    apart: bool
    """Whether a position sees its own document alone."""
    counted_anew: bool
    """Whether the first position of every document is 0."""

    def __post_init__(self) -> None:
        assert self.end_tokens
        assert self.apart or self.counted_anew

    def documents_of(self, text: Sample) -> list[Sample]:
        """The documents of a text one by one, each with its part of the mask."""
        begins = np.unique(document_starts(text.tokens, self.end_tokens))[1:]
        tokens = np.split(text.tokens, begins)
        if text.mask is None:
            return [Sample(document, None) for document in tokens]
        masks = np.split(text.mask, begins)
        return [Sample(document, mask) for document, mask in zip(tokens, masks, strict=True)]


@dataclass(frozen=True)
class SampleOfDocuments:
    """An `Example` whose structure has the starts of documents, positions within them, or both."""

    inputs: Tokens
    labels: Tokens
    structure: Mapping[str, Tokens]


class SamplesOfDocuments:
    """Every text with what keeps its documents apart."""

    def __init__(self, texts: Texts, isolation: Isolation) -> None:
        self.texts = texts
        self.isolation = isolation

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, number: int) -> SampleOfDocuments:
        text = self.texts[number]
        starts = document_starts(text.inputs, self.isolation.end_tokens)
        structure = {}
        if self.isolation.apart:
            structure["document_starts"] = starts
        if self.isolation.counted_anew:
            structure["position_ids"] = np.arange(len(starts)) - starts
        return SampleOfDocuments(text.inputs, text.labels, structure)


def document_starts(tokens: Tokens, end_tokens: Collection[int]) -> Tokens:
    """Where the document of each token begins, the same shape [length]."""
    starts = np.zeros(len(tokens), np.int64)
    begins = np.flatnonzero(np.isin(tokens[:-1], tuple(end_tokens))) + 1
    starts[begins] = begins
    return np.maximum.accumulate(starts)
