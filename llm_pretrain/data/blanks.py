"""Samples of text with blanks, for models that fill them (Du et al., arXiv:2103.10360).

A sample is one text with blanks, or where its documents are kept apart, each of them with blanks of
its own, one after another. Only the last is cut short, where the sample is full.

A text with blanks is what is left of it, its context, then what fills them. The context has masks
for what was cut out of it, and sees all of itself; that text follows, blank by blank. Each token of
a blank sees the context and what was filled before it, and predicts the next. Two kinds are mixed,
as GLM-130B's pretraining has them (Zeng et al., arXiv:2210.02414, section 2.2 and the table of
hyperparameters):

    long    x x x x [gMASK] <sop> y y y y y         the end of the text, 20 to 100 % of it
    short   x [MASK] x x x [MASK] x <sop> y <sop> z z    15 % of it, lengths from Poisson(3)

The paper's packing of several short-blank samples into one, and its 2 % of cut texts and of single
blanks, are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llm_pretrain.config.model_config import BlankInfilling
from llm_pretrain.data.samples import (
    IGNORED_LABEL,
    Isolation,
    Sample,
    StructuredSample,
    Texts,
    Tokens,
)
from llm_pretrain.data.token_data import DataError

_LEAST_LENGTH = 16
_LEAST_LONG_SHARE = 0.2
_SHORT_SHARE = 0.15
_SHORT_MEAN = 3


class SamplesWithBlanks:
    """Every text with blanks in it, which the seed and the sample's number alone decide.

    The structure of a sample has where prefixes end, positions, and what the model and the
    isolation of documents need besides.

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

    def __getitem__(self, number: int) -> StructuredSample:
        text = self.texts[number]
        generator = np.random.default_rng((self.seed, number))
        documents = [text] if self.isolation is None else self.isolation.documents_of(text)
        parts = self._with_blanks(documents, len(text.inputs), generator)
        return StructuredSample(
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


@dataclass(frozen=True)
class TextWithBlanks:
    """A context and what fills its blanks; all arrays are [places]."""

    inputs: Tokens
    labels: Tokens
    positions: Tokens
    """In the text, from 0."""
    block_positions: Tokens
    """From 1 in each blank; 0 in the context."""
    prefix: int
    """Places of the context."""


@dataclass(frozen=True)
class _Filling:
    """What fills one blank."""

    inputs: Tokens
    labels: Tokens
    positions: Tokens


def cut_blanks(
    text: Sample, room: int, blanks: BlankInfilling, generator: np.random.Generator
) -> TextWithBlanks:
    """`text` with blanks, or as much of its beginning as takes `room` places with them.

    Too short a text for short blanks has a long one. Where there is room for one token alone, that
    is a context without blanks.

    Args:
        text: at least one token; all count, the last one too.
        room: places, at least 1. The text takes fewer if it is all there.
    """
    is_long = generator.random() < blanks.long_share
    if room == 1:
        return _filled(text.tokens[:1], [])
    sizes = [] if is_long else _short_sizes(min(len(text.tokens), room), generator)
    if sizes:
        return _with_short_blanks(text, room, sizes, blanks, generator)
    return _with_long_blank(text, room, blanks, generator)


def _with_long_blank(
    text: Sample, room: int, blanks: BlankInfilling, generator: np.random.Generator
) -> TextWithBlanks:
    # The mask takes a place; <sop> takes that of the last token, which is only predicted.
    length = min(len(text.tokens), room - 1)
    least = max(int(_LEAST_LONG_SHARE * length), 1)
    begin = length - int(generator.integers(least, length + 1))
    tokens, targets = text.tokens[:length], text.targets[:length]
    counted_on = np.arange(begin + 1, length + 1)
    filling = _Filling(
        inputs=np.concatenate([[blanks.start_token_id], tokens[begin:-1]]),
        labels=targets[begin:],
        positions=np.full_like(counted_on, begin) if blanks.block_positions else counted_on,
    )
    return _filled(np.concatenate([tokens[:begin], [blanks.gmask_token_id]]), [filling])


def _with_short_blanks(
    text: Sample,
    room: int,
    sizes: Sequence[int],
    blanks: BlankInfilling,
    generator: np.random.Generator,
) -> TextWithBlanks:
    # Each blank takes two places more than its text: for its mask and for <sop>.
    length = min(len(text.tokens), room - 2 * len(sizes))
    tokens, targets = text.tokens[:length], text.targets[:length]
    # At least one token stands between two blanks.
    free = length - sum(sizes) - len(sizes) + 1
    gaps = np.sort(generator.integers(0, free + 1, len(sizes)))
    context: list[NDArray[np.int64] | list[int]] = []
    fillings = []
    end = position = 0
    for number, (gap, size) in enumerate(zip(gaps.tolist(), sizes, strict=True)):
        begin = gap + number + sum(sizes[:number])
        position += begin - end
        context += [tokens[end:begin], [blanks.mask_token_id]]
        end = begin + size
        fillings.append(
            _Filling(
                inputs=np.concatenate([[blanks.start_token_id], tokens[begin:end]]),
                labels=np.concatenate([targets[begin:end], [blanks.end_token_id]]),
                positions=np.full(size + 1, position),
            )
        )
        position += 1
    context.append(tokens[end:])
    order = generator.permutation(len(fillings))
    return _filled(np.concatenate(context), [fillings[number] for number in order])


def _filled(context: Tokens, fillings: list[_Filling]) -> TextWithBlanks:
    prefix = len(context)

    def joined(of_context: Tokens, of_fillings: list[Tokens]) -> Tokens:
        return np.concatenate([of_context, *of_fillings])

    return TextWithBlanks(
        joined(context, [filling.inputs for filling in fillings]),
        joined(np.full(prefix, IGNORED_LABEL), [filling.labels for filling in fillings]),
        joined(np.arange(prefix), [filling.positions for filling in fillings]),
        joined(
            np.zeros(prefix, np.int64),
            [np.arange(1, len(filling.inputs) + 1) for filling in fillings],
        ),
        prefix,
    )


def _short_sizes(length: int, generator: np.random.Generator) -> list[int]:
    """Lengths of blanks that add up to their share of the text; [] where that is none."""
    left = int(_SHORT_SHARE * length)
    sizes = []
    while left:
        size = int(generator.poisson(_SHORT_MEAN))
        if size:
            sizes.append(min(size, left))
            left -= sizes[-1]
    return sizes
