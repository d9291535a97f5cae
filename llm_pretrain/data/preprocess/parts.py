"""A corpus in parts, which machines do apart, and their joining to the files of a whole run.

A part has some of the inputs, one after another, and leaves its documents with their hashes in a
folder beside the output. Joined in order they are what one machine would have written, byte for
byte: equal documents of different parts are found by their hashes.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm_pretrain.data.indexed_writer import map_numbers
from llm_pretrain.data.preprocess.inputs import Source
from llm_pretrain.data.preprocess.streams import PreprocessError
from llm_pretrain.data.preprocess.unfinished import NOTE_NAME

_DOCUMENTS_AT_ONCE = 1 << 14


@dataclass(frozen=True)
class Part:
    """One of `count` parts; the first has number 1."""

    number: int
    count: int

    @classmethod
    def read(cls, text: str) -> Part:
        """From "3/8". Raises ValueError where it is none."""
        number, _, count = text.partition("/")
        part = cls(int(number), int(count))
        if not 1 <= part.number <= part.count:
            raise ValueError(f"{text} is no part: expected is I/N with I from 1 to N")
        return part

    @classmethod
    def all(cls, count: int) -> list[Part]:
        return [cls(number + 1, count) for number in range(count)]

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def prefix(self, prefix: Path) -> Path:
        """Where the part of that output is; its folder when it is whole."""
        return prefix.with_name(f"{prefix.name}.part-{self.number:05}-of-{self.count:05}")

    def of(self, sources: Sequence[Source]) -> list[Source]:
        """Its inputs: parts have about the same bytes, and no input is cut."""
        ends = np.cumsum([max(source.size, 1) for source in sources])
        middles = ends - np.diff(ends, prepend=0) / 2
        owners = (middles * self.count / ends[-1]).astype(int)
        return [
            source
            for source, owner in zip(sources, owners, strict=True)
            if owner == self.number - 1
        ]


@dataclass(frozen=True)
class Documents:
    """Some documents of a part, in their order."""

    tokens: NDArray[np.integer]
    sizes: NDArray[np.int64]
    hashes: NDArray[np.uint64]
    """[n, 2]."""


class WholePart:
    """A part that is done.

    Raises:
        PreprocessError: it is not, or it was made of other inputs or with other options.
    """

    def __init__(
        self, part: Part, output: Path, dtype: np.dtype, description: dict[str, object]
    ) -> None:
        self.folder = part.prefix(output)
        self._dtype = dtype
        note = self._note(part)
        other = [key for key, value in description.items() if note["of"].get(key) != value]
        if other:
            raise PreprocessError(f"part {part} in {self.folder} is of another {', '.join(other)}.")
        self.counts: Counter[str] = Counter(note["counts"])

    def _note(self, part: Part) -> dict[str, Any]:
        try:
            return dict(json.loads((self.folder / NOTE_NAME).read_text(encoding="utf-8")))
        except FileNotFoundError:
            unfinished = self.folder.with_name(f"{self.folder.name}.unfinished")
            how_far = ", it is begun" if unfinished.is_dir() else ""
            raise PreprocessError(
                f"part {part} is not done{how_far}: the same command with --part {part} does it."
            ) from None

    def documents(self, held_out: Callable[[NDArray], NDArray[np.bool_]]) -> Iterator[Documents]:
        """All of them; `held_out` says of hashes which documents went to the second pair."""
        hashes = map_numbers(self.folder / "hashes", np.uint64).reshape(-1, 2)
        pairs = [_Pair(self.folder, name, self._dtype) for name in ("main", "held_out")]
        for begin in range(0, len(hashes), _DOCUMENTS_AT_ONCE):
            some = np.array(hashes[begin : begin + _DOCUMENTS_AT_ONCE])
            second = held_out(some)
            sizes = np.zeros(len(some), np.int64)
            for pair, where in zip(pairs, (~second, second), strict=True):
                sizes[where] = pair.sizes_of_next(int(where.sum()))
            of_second = np.repeat(second, sizes)
            tokens = np.zeros(int(sizes.sum()), self._dtype)
            for pair, where in zip(pairs, (~of_second, of_second), strict=True):
                tokens[where] = pair.next_tokens(int(where.sum()))
            yield Documents(tokens, sizes, some)

    def remove(self) -> None:
        shutil.rmtree(self.folder)


class _Pair:
    """The tokens and sizes of one output, read from the beginning on."""

    def __init__(self, folder: Path, name: str, dtype: np.dtype) -> None:
        self._tokens = map_numbers(folder / f"{name}.tokens", dtype)
        self._sizes = map_numbers(folder / f"{name}.sizes", np.int32)
        self._document = self._token = 0

    def sizes_of_next(self, documents: int) -> NDArray[np.int32]:
        self._document += documents
        return self._sizes[self._document - documents : self._document]

    def next_tokens(self, count: int) -> NDArray[np.integer]:
        self._token += count
        return self._tokens[self._token - count : self._token]
