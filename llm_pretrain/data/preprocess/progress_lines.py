"""The lines that a run prints while it works and when it is done."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import numpy as np

from llm_pretrain.data.preprocess.encode import Encoded
from llm_pretrain.data.preprocess.inputs import Source
from llm_pretrain.data.preprocess.streams import PreprocessError
from llm_pretrain.machine.language import translated
from llm_pretrain.machine.terminal import say

DUPLICATE = "left out, there already"
# Unreadable records named one by one; the rest are only counted.
_PROBLEMS_SHOWN = 10


class Progress:
    """Counts documents, tokens and text, and prints a line every `interval` documents."""

    def __init__(
        self,
        out: TextIO,
        sources: Sequence[Source],
        counts: Counter[str],
        finished: int,
        *,
        interval: int,
        max_documents: int | None,
    ) -> None:
        self.counts = counts
        """Grows: "documents", "tokens", "held out", "unreadable", "bytes"; and "left out" with
        its reasons."""
        self._out = out
        self._interval = interval
        self._next = counts["documents"] + interval
        self._max_documents = max_documents
        self._starts = np.cumsum([0, *(source.size for source in sources)])
        self._sizes = [source.size for source in sources]
        self._begin = time.monotonic()
        self._at_begin = counts.copy()
        self._share_at_begin = self._share(int(self._starts[finished]))

    def add(self, block: Encoded, documents: int, tokens: int, held_out: int) -> None:
        added = {"documents": documents, "tokens": tokens, "held out": held_out}
        self.counts.update(added | {"bytes": block.text_bytes})
        self.counts.update({f"left out, {why}": n for why, n in block.left_out.items()})
        if self.counts["documents"] < self._next:
            return
        self._next = (self.counts["documents"] // self._interval + 1) * self._interval
        read = int(self._starts[block.source]) + min(block.position, self._sizes[block.source])
        share = self._share(read)
        done = (share - self._share_at_begin) / max(1 - self._share_at_begin, 1e-9)
        left = self._seconds() * (1 - done) / max(done, 1e-9)
        line = (
            f"{self.counts['documents']:,} documents, {share:.1%}, {_duration(left)} left, "
            f"{self._rates()}\n"
        )
        # At once, so that an interrupt finds the line ended.
        self._out.write(translated(line))
        self._out.flush()

    def join(self, documents: int, tokens: int, held_out: int, *, duplicates: int) -> None:
        """Some documents of a part, of which so many were in an earlier one."""
        added = {"documents": documents, "tokens": tokens, "held out": held_out}
        self.counts.update(added | {DUPLICATE: duplicates})

    def problem(self, where: str, *, fail: bool) -> None:
        if fail:
            raise PreprocessError(f"{where} (--on_error skip goes on without such records)")
        self.counts["unreadable"] += 1
        if self.counts["unreadable"] <= _PROBLEMS_SHOWN:
            say(f"Skipped {where}", self._out)

    def finish_part(self, folder: Path) -> None:
        say(
            f"Wrote {folder}: {self.counts['documents']:,} documents, {self._rates()}",
            self._out,
        )

    def finish(self, prefix: Path, held_out: Path, dtype: np.dtype) -> None:
        counts = self.counts
        for why, number in counts.items():
            if why.startswith("left out") and number:
                say(f"{number:,} documents {why}", self._out)
        skipped = f", {counts['unreadable']:,} records skipped" if counts["unreadable"] else ""
        say(
            f"Wrote {prefix}.bin and {prefix}.idx: {counts['documents'] - counts['held out']:,} "
            f"documents, {counts['tokens']:,} tokens of type {dtype.name}{skipped}, "
            f"{self._rates()}",
            self._out,
        )
        if counts["held out"]:
            say(
                f"Held out in {held_out}.bin and .idx: {counts['held out']:,} documents",
                self._out,
            )

    def _share(self, read: int) -> float:
        share = read / max(int(self._starts[-1]), 1)
        if self._max_documents is not None:
            share = max(share, self.counts["documents"] / self._max_documents)
        return min(share, 1.0)

    def _seconds(self) -> float:
        return max(time.monotonic() - self._begin, 1e-9)

    def _rates(self) -> str:
        new = self.counts - self._at_begin
        seconds = self._seconds()
        return f"{new['bytes'] / seconds / 1e6:.1f} MB/s, {new['tokens'] / seconds:,.0f} tokens/s"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
