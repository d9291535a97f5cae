"""A text with blanks: what is left of it, then what fills them.

The context has masks for what was cut out of it, and sees all of itself; that text follows, blank
by blank. Each token of a blank sees the context and what was filled before it, and predicts the
next. Two kinds are mixed, as GLM-130B's pretraining has them (Zeng et al., arXiv:2210.02414,
section 2.2 and the table of hyperparameters):

    long    x x x x [gMASK] <sop> y y y y y         the end of the text, 20 to 100 % of it
    short   x [MASK] x x x [MASK] x <sop> y <sop> z z    15 % of it, lengths from Poisson(3)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llm_pretrain.config.model_config import BlankInfilling
from llm_pretrain.data.samples import IGNORED_LABEL, Sample

_LEAST_LONG_SHARE = 0.2
_SHORT_SHARE = 0.15
_SHORT_MEAN = 3

Tokens = NDArray[np.int64]


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
