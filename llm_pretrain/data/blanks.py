"""Samples of text with blanks, for models that fill them (Du et al., arXiv:2103.10360).

A sample is a context in which masks stand for what was cut out, then that text, blank by blank.
The context sees all of itself; each token of a blank sees the context and what was filled before
it, and predicts the next. Two kinds are mixed, as GLM-130B's pretraining has them (Zeng et al.,
arXiv:2210.02414, section 2.2 and the table of hyperparameters):

    long    x x x x [gMASK] <sop> y y y y y         the end of the text, 20 to 100 % of it
    short   x [MASK] x x x [MASK] x <sop> y <sop> z z    15 % of it, lengths from Poisson(3)

Both fill the whole length. The paper's packing of several short-blank samples into one, and its
2 % of cut texts and of single blanks, are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llm_pretrain.config.model_config import BlankInfilling
from llm_pretrain.data.errors import DataError
from llm_pretrain.data.samples import IGNORED_LABEL, Sample, Texts

_LEAST_LONG_SHARE = 0.2
_SHORT_SHARE = 0.15
_SHORT_MEAN = 3
_LEAST_LENGTH = 16

Tokens = NDArray[np.int64]


@dataclass(frozen=True)
class SampleWithBlanks:
    """An `Example` whose structure has a prefix, positions and, where needed, block positions."""

    inputs: Tokens
    labels: Tokens
    structure: Mapping[str, Tokens]


@dataclass(frozen=True)
class _Filling:
    """What fills one blank."""

    inputs: Tokens
    labels: Tokens
    positions: Tokens


class SamplesWithBlanks:
    """Every text with blanks in it, which the seed and the sample's number alone decide.

    Raises:
        DataError: the texts are too short to have blanks.
    """

    def __init__(self, texts: Texts, blanks: BlankInfilling, seed: int) -> None:
        self.texts = texts
        self.blanks = blanks
        self.seed = seed
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
        if generator.random() < self.blanks.long_share:
            return self._with_long_blank(text, generator)
        return self._with_short_blanks(text, generator)

    def _with_long_blank(self, text: Sample, generator: np.random.Generator) -> SampleWithBlanks:
        # The mask takes a place; <sop> takes that of the last token, which is only predicted.
        length = len(text.inputs) - 1
        begin = length - int(generator.integers(int(_LEAST_LONG_SHARE * length), length + 1))
        tokens, targets = text.tokens[:length], text.targets[:length]
        counted_on = np.arange(begin + 1, length + 1)
        filling = _Filling(
            inputs=np.concatenate([[self.blanks.start_token_id], tokens[begin:-1]]),
            labels=targets[begin:],
            positions=np.full_like(counted_on, begin)
            if self.blanks.block_positions
            else counted_on,
        )
        context = np.concatenate([tokens[:begin], [self.blanks.gmask_token_id]])
        return self._filled(context, [filling])

    def _with_short_blanks(self, text: Sample, generator: np.random.Generator) -> SampleWithBlanks:
        sizes = _short_sizes(len(text.inputs), generator)
        # Each blank takes two places more than its text: for its mask and for <sop>.
        length = len(text.inputs) - 2 * len(sizes)
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
            context += [tokens[end:begin], [self.blanks.mask_token_id]]
            end = begin + size
            fillings.append(
                _Filling(
                    inputs=np.concatenate([[self.blanks.start_token_id], tokens[begin:end]]),
                    labels=np.concatenate([targets[begin:end], [self.blanks.end_token_id]]),
                    positions=np.full(size + 1, position),
                )
            )
            position += 1
        context.append(tokens[end:])
        order = generator.permutation(len(fillings))
        return self._filled(np.concatenate(context), [fillings[number] for number in order])

    def _filled(self, context: Tokens, fillings: list[_Filling]) -> SampleWithBlanks:
        prefix = len(context)
        structure = {
            "prefix_ends": np.full(len(self.texts[0].inputs), prefix),
            "position_ids": np.concatenate(
                [np.arange(prefix), *(filling.positions for filling in fillings)]
            ),
        }
        if self.blanks.block_positions:
            structure["block_position_ids"] = np.concatenate(
                [
                    np.zeros(prefix, np.int64),
                    *(np.arange(1, len(filling.inputs) + 1) for filling in fillings),
                ]
            )
        return SampleWithBlanks(
            np.concatenate([context, *(filling.inputs for filling in fillings)]),
            np.concatenate(
                [np.full(prefix, IGNORED_LABEL), *(filling.labels for filling in fillings)]
            ),
            structure,
        )


def _short_sizes(length: int, generator: np.random.Generator) -> list[int]:
    """Lengths of blanks that add up to their share of the text."""
    left = int(_SHORT_SHARE * length)
    sizes = []
    while left:
        size = int(generator.poisson(_SHORT_MEAN))
        if size:
            sizes.append(min(size, left))
            left -= sizes[-1]
    return sizes
