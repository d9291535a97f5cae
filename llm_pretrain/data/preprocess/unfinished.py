"""Output in the making: `<prefix>.unfinished/`, from which an interrupted run goes on."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from llm_pretrain.data.indexed_writer import map_numbers, publish_pair
from llm_pretrain.data.preprocess.streams import PreprocessError
from llm_pretrain.machine.files import write_text

NOTE_NAME = "note.json"
_SECONDS_BETWEEN_NOTES = 5.0
_HASHES_AT_ONCE = 1 << 16


def held_out_prefix(prefix: Path) -> Path:
    """In a folder of its own: training on the folder of `prefix` must not read it."""
    return prefix.parent / "held_out" / prefix.name


class Unfinished:
    """The growing files of one run, and a note of how far they reach at the end of an input.

    What is behind the note is cut off when a run goes on. `description` is all that the output
    depends on. Raises PreprocessError if the folder is another run's, or of another description.
    """

    def __init__(self, prefix: Path, dtype: np.dtype, description: dict[str, object]) -> None:
        self.folder = prefix.with_name(f"{prefix.name}.unfinished")
        self.finished = 0
        """Inputs that are done."""
        self.counts: Counter[str] = Counter()
        """What the caller counted in those inputs."""
        self._prefix = prefix
        self._dtype = dtype
        self._description = description
        self._lengths: dict[str, int] = {}
        self._noted = time.monotonic()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self.folder / "lock").open("wb")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._read_note()
            self._files = {name: self._open(name) for name in _FILES}
        except BaseException as error:
            self._lock.close()
            if isinstance(error, BlockingIOError):
                raise PreprocessError(f"Another process is writing to {self.folder}.") from error
            raise

    def add(
        self, tokens: NDArray[np.integer], sizes: NDArray[np.int64], held_out: NDArray[np.bool_]
    ) -> None:
        """Documents one after another; those of `held_out` go to the second pair."""
        in_held_out = np.repeat(held_out, sizes)
        for part, of_tokens, of_sizes in (
            ("main", ~in_held_out, ~held_out),
            ("held_out", in_held_out, held_out),
        ):
            self._files[f"{part}.tokens"].write(tokens[of_tokens].tobytes())
            self._files[f"{part}.sizes"].write(sizes[of_sizes].astype(np.int32).tobytes())

    def add_hashes(self, hashes: NDArray[np.uint64]) -> None:
        self._files["hashes"].write(hashes.tobytes())

    def hashes(self) -> Iterator[NDArray[np.uint64]]:
        """Those of the finished inputs, shape [n, 2]."""
        stored = map_numbers(self.folder / "hashes", np.uint64).reshape(-1, 2)
        for begin in range(0, len(stored), _HASHES_AT_ONCE):
            yield stored[begin : begin + _HASHES_AT_ONCE]

    def end_input(self, counts: Counter[str]) -> None:
        """What has been added so far is the first inputs' and whole."""
        self.finished += 1
        self.counts = counts.copy()
        self._lengths = {name: file.tell() for name, file in self._files.items()}
        if time.monotonic() - self._noted > _SECONDS_BETWEEN_NOTES:
            self._write_note()

    def publish(self) -> None:
        """Give the pairs their names, and remove the folder."""
        self._write_note()
        self._close()
        for part, prefix in (("held_out", held_out_prefix(self._prefix)), ("main", self._prefix)):
            tokens, sizes = self.folder / f"{part}.tokens", self.folder / f"{part}.sizes"
            if sizes.stat().st_size:
                prefix.parent.mkdir(exist_ok=True)
                publish_pair(prefix, self._dtype, tokens=tokens, sizes=sizes)
        self.remove()

    def keep_as_part(self) -> None:
        """Leave all in a folder of the prefix's name, for `parts.WholePart`."""
        self._lengths = {name: file.tell() for name, file in self._files.items()}
        self._write_note()
        self._close()
        self.folder.rename(self._prefix)
        self.finished = 0

    def leave(self) -> None:
        """Stop early: keep what the finished inputs gave, and nothing if there are none."""
        if not self.finished:
            self.remove()
        elif self._files:
            self._write_note()
        self._close()
        self._lock.close()

    def remove(self) -> None:
        self._close()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.finished = 0

    def _close(self) -> None:
        for file in self._files.values():
            # What a full disk refused is still in the buffer; `_write_note` would have said so.
            with suppress(OSError):
                file.close()
        self._files.clear()

    def _open(self, name: str) -> BinaryIO:
        path = self.folder / name
        length = self._lengths.get(name, 0)
        file = path.open("r+b" if length else "wb")
        file.truncate(length)
        file.seek(length)
        return file

    def _read_note(self) -> None:
        try:
            note = json.loads((self.folder / NOTE_NAME).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return
        if not note["finished"]:
            return
        other = [key for key, value in self._description.items() if note["of"].get(key) != value]
        if other:
            raise PreprocessError(
                f"{self.folder} holds unfinished work for the same output, but of another "
                f"{', '.join(other)}. Repeat that command to go on with it, or remove the folder "
                "to begin anew."
            )
        lengths = note["lengths"]
        there = {path.name: path.stat().st_size for path in self.folder.iterdir()}
        if any(there.get(name, -1) < lengths[name] for name in _FILES):
            raise PreprocessError(f"{self.folder} is damaged: remove it, and begin anew.")
        self._lengths = lengths
        self.finished = note["finished"]
        self.counts = Counter(note["counts"])

    def _write_note(self) -> None:
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        note = {
            "of": self._description,
            "finished": self.finished,
            "counts": self.counts,
            "lengths": self._lengths,
        }
        write_text(self.folder / NOTE_NAME, json.dumps(note, indent=1))
        self._noted = time.monotonic()


_FILES = ("main.tokens", "main.sizes", "held_out.tokens", "held_out.sizes", "hashes")
