"""The files that `--input_path` means, those within archives included."""

from __future__ import annotations

import glob
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from llm_pretrain.preprocess.formats import FORMATS
from llm_pretrain.preprocess.streams import COMPRESSIONS, PreprocessError

_ARCHIVE = ".tar"
_KNOWN = (
    f"{', '.join(FORMATS)}, these with {' or '.join(COMPRESSIONS)} behind them, and {_ARCHIVE} "
    "archives of such files"
)


@dataclass(frozen=True)
class Source:
    """One file of text, or one such file within an archive."""

    path: Path
    size: int
    """Bytes as stored."""
    modified_ns: int
    format: str
    """A key of FORMATS."""
    compression: str
    """A key of COMPRESSIONS, or nothing."""
    member: tarfile.TarInfo | None = None

    @property
    def name(self) -> str:
        return str(self.path) if self.member is None else f"{self.path}/{self.member.name}"

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """The file as stored, compressed or not."""
        if self.member is None:
            with self.path.open("rb") as file:
                yield file
            return
        with tarfile.open(self.path, "r:") as archive:
            inner = archive.extractfile(self.member)
            assert inner is not None
            with inner:
                yield inner


def find_sources(input_paths: Iterable[str]) -> tuple[list[Source], list[Path]]:
    """What to read, in order, and the files of other formats that are left out.

    Each input is a file, a folder, which is searched through all its levels, or a glob. Inputs
    keep their order; the files of one are sorted by path. Raises PreprocessError where an input
    holds nothing.
    """
    sources: list[Source] = []
    others: list[Path] = []
    for text in input_paths:
        found: list[Source] = []
        for path in _files(text):
            inside = _sources_of(path)
            found.extend(inside)
            if not inside:
                others.append(path)
        if not found:
            kind = "is not" if Path(text).is_file() else "holds no file"
            raise PreprocessError(f"--input_path {text} {kind} of a known format: {_KNOWN}.")
        sources.extend(found)
    return sources, others


def _files(text: str) -> list[Path]:
    path = Path(text)
    if path.is_file():
        return [path]
    roots = [path] if path.is_dir() else [Path(name) for name in glob.glob(text, recursive=True)]
    if not roots:
        raise PreprocessError(f"--input_path {text}: there is no such file or folder.")
    found = {
        file
        for root in roots
        for file in ([root] if root.is_file() else root.rglob("*"))
        if file.is_file()
    }
    # As text, as PaddleNLP does: "a-b/x" is before "a/x".
    return sorted(found, key=str)


def _sources_of(path: Path) -> list[Source]:
    about = path.stat()
    if path.suffix != _ARCHIVE:
        kind = _kind(path.name)
        return [Source(path, about.st_size, about.st_mtime_ns, *kind)] if kind else []
    try:
        with tarfile.open(path, "r:") as archive:
            members = [member for member in archive if member.isfile()]
    except (tarfile.TarError, EOFError) as error:
        raise PreprocessError(f"{path} can't be read as an archive: {error}") from error
    return [
        Source(path, member.size, about.st_mtime_ns, *kind, member)
        for member in members
        if (kind := _kind(member.name))
    ]


def _kind(name: str) -> tuple[str, str] | None:
    """Format and compression by the endings of a name."""
    path = Path(name)
    compression = path.suffix if path.suffix in COMPRESSIONS else ""
    ending = Path(path.stem).suffix if compression else path.suffix
    return (ending, compression) if ending in FORMATS else None
