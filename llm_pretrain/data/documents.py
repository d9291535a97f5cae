"""Samples whose documents are kept apart: by what attention sees, by their positions, or both.

The documents of a sample are those that its tokens show: one begins after every end token.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llm_pretrain.data.samples import Texts

Tokens = NDArray[np.int64]


@dataclass(frozen=True)
class SampleOfDocuments:
    """An `Example` whose structure has the starts of documents, positions within them, or both."""

    inputs: Tokens
    labels: Tokens
    structure: Mapping[str, Tokens]


class SamplesOfDocuments:
    """Every text with what keeps its documents apart.

    Args:
        end_tokens: ids of which each ends a document and belongs to it.
        apart: whether a position sees its own document alone.
        counted_anew: whether the first position of every document is 0.
    """

    def __init__(
        self, texts: Texts, end_tokens: Collection[int], *, apart: bool, counted_anew: bool
    ) -> None:
        assert end_tokens
        assert apart or counted_anew
        self.texts = texts
        self.end_tokens = tuple(end_tokens)
        self.apart = apart
        self.counted_anew = counted_anew

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, number: int) -> SampleOfDocuments:
        text = self.texts[number]
        starts = document_starts(text.inputs, self.end_tokens)
        structure = {}
        if self.apart:
            structure["document_starts"] = starts
        if self.counted_anew:
            structure["position_ids"] = np.arange(len(starts)) - starts
        return SampleOfDocuments(text.inputs, text.labels, structure)


def document_starts(tokens: Tokens, end_tokens: Collection[int]) -> Tokens:
    """Where the document of each token begins, the same shape [length]."""
    starts = np.zeros(len(tokens), np.int64)
    begins = np.flatnonzero(np.isin(tokens[:-1], tuple(end_tokens))) + 1
    starts[begins] = begins
    return np.maximum.accumulate(starts)
