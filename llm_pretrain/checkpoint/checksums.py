"""The checksums of a checkpoint's files, and what they say of it: whole, incomplete or damaged.

`checksums.json` lists every other file with its size in bytes and its CRC-32C (Castagnoli), which
finds every burst of errors up to 32 bits long and all but 2^-32 of the longer ones. Each rank notes
the files that it has written; when all have, the notes of one disk are joined into its list.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from crc32c import crc32c

from llm_pretrain.config import ConfigError
from llm_pretrain.machine.files import write_text

FILE_NAME = "checksums.json"
_NOTES = ".checksums"
_BLOCK_BYTES = 8 << 20


class DamagedCheckpointError(ConfigError):
    """A checkpoint that lacks a file, or has one with other contents than were written."""

    def __init__(self, problem: str) -> None:
        super().__init__([problem])


class Checksum(NamedTuple):
    """A file's size in bytes, and the CRC-32C of its contents as eight hexadecimal digits."""

    size: int
    crc32c: str


def checksum(path: Path) -> Checksum:
    """What a file holds now. Raises OSError where it can't be read."""
    size = crc = 0
    with path.open("rb", buffering=0) as file:
        block = memoryview(bytearray(_BLOCK_BYTES))
        while count := file.readinto(block):
            crc = crc32c(block[:count], crc)
            size += count
    return Checksum(size, f"{crc:08x}")


def note_files(directory: Path, writer: int | str, paths: Iterable[Path]) -> None:
    """Note the checksums of files below `directory` that this writer has written."""
    notes = directory / _NOTES
    notes.mkdir(exist_ok=True)
    entries = {path.relative_to(directory).as_posix(): checksum(path)._asdict() for path in paths}
    write_text(notes / f"{writer}.json", json.dumps(entries))


def join_notes(directory: Path) -> None:
    """Write the list of the files that all ranks have noted in `directory`, in place of the
    notes."""
    entries: dict[str, dict[str, int | str]] = {}
    for path in (directory / _NOTES).glob("*.json"):
        entries |= json.loads(path.read_text())
    text = json.dumps(dict(sorted(entries.items())), indent=1)
    write_text(directory / FILE_NAME, text)
    shutil.rmtree(directory / _NOTES, ignore_errors=True)


class Checksums:
    """The list of a checkpoint; empty for one that an earlier version of this program wrote.

    Raises:
        DamagedCheckpointError: the list itself can't be read.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self.files: dict[str, Checksum] = {}
        self._compared: set[str] = set()
        path = checkpoint / FILE_NAME
        try:
            for name, entry in json.loads(path.read_text()).items():
                self.files[name] = Checksum(int(entry["size"]), str(entry["crc32c"]))
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedCheckpointError(f"{path} can't be read: {error}") from error

    @property
    def size(self) -> int:
        """Bytes of the listed files together."""
        return sum(entry.size for entry in self.files.values())

    def assert_complete(self) -> None:
        """Find files that are missing or cut off, by their sizes, without reading them.

        Raises:
            DamagedCheckpointError: names the first.
        """
        for name, expected in self.files.items():
            path = self.checkpoint / name
            try:
                size = path.stat().st_size
            except OSError as error:
                raise DamagedCheckpointError(f"{path} is missing") from error
            if size != expected.size:
                raise DamagedCheckpointError(
                    f"{path} has {size:,} bytes where {expected.size:,} were written"
                )

    def assert_undamaged(self, path: Path) -> None:
        """Compare a file with its checksum, if it is listed, at the first call for it.

        Raises:
            DamagedCheckpointError: it differs, or can't be read.
        """
        name = path.relative_to(self.checkpoint).as_posix()
        expected = self.files.get(name)
        if expected is None or name in self._compared:
            return
        try:
            found = checksum(path)
        except OSError as error:
            raise DamagedCheckpointError(f"{path} can't be read: {error.strerror}") from error
        if found != expected:
            raise DamagedCheckpointError(
                f"{path} is damaged: its contents are not those that were written (CRC-32C "
                f"{found.crc32c}, not {expected.crc32c})"
            )
        self._compared.add(name)


def assert_whole(checkpoint: Path) -> Checksums:
    """Read every listed file of a checkpoint and compare it with its checksum.

    Raises:
        DamagedCheckpointError: names the first that is missing or damaged.
    """
    checksums = Checksums(checkpoint)
    checksums.assert_complete()
    for name in checksums.files:
        checksums.assert_undamaged(checkpoint / name)
    return checksums
