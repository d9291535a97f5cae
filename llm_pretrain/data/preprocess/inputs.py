"""The files that `--input_path` means, those within archives included, and their formats.

A format says how a file is cut into records, and a record turned into a text. Cutting runs in one
process and must be cheap; decoding runs in the workers. A new format is a `Format` more in FORMATS.
"""

from __future__ import annotations

import glob
import itertools
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

from llm_pretrain.data.preprocess.streams import (
    COMPRESSIONS,
    PreprocessError,
    array_elements,
    import_extra,
    read_blocks,
)

MAX_RECORD_BYTES = 1 << 26
"""Longer records are not read, since they would fill the memory of every worker."""
_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class FormatOptions:
    json_key: str = "text"
    """Key of the text in each JSON object, or the column of a table."""
    separator: str = ""
    """Line between two documents of a .txt file, blanks at its ends aside."""


class Record(NamedTuple):
    """One document as it stands in its file."""

    number: int
    """Which line of the file it begins on, or which element or row it is; from 1."""
    raw: bytes | None
    """None where a table has no text."""


@dataclass(frozen=True)
class Format:
    cut: Callable[[IO[bytes], str, FormatOptions], Iterator[Record]]
    """Of a file with that compression. Raises OSError, EOFError or ValueError where the file is
    damaged."""
    decode: Callable[[bytes, FormatOptions], str]
    """Raises ValueError that says what is wrong with the record."""
    unit: str = "line"
    """What a record's number counts."""


def decode_record(raw: bytes | None, kind: Format, options: FormatOptions) -> str:
    """Text of a record. Raises ValueError that says what is wrong with it."""
    if raw is None:
        raise ValueError("there is no text (null)")
    if len(raw) > MAX_RECORD_BYTES:
        raise ValueError(
            f"longer than {MAX_RECORD_BYTES >> 20} MiB; are the ending of the file's name and "
            "--separator right?"
        )
    text = kind.decode(raw, options)
    # JSON can spell halves of surrogate pairs, which no tokenizer takes.
    text.encode("utf-8")
    return text


def _lines(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Lines without their ends; of one that is too long, a beginning that is too long, too."""
    rest = b""
    for block in blocks:
        lines = block.split(b"\n")
        lines[0] = rest + lines[0]
        rest = lines.pop()[: MAX_RECORD_BYTES + 1]
        yield from lines
    if rest:
        yield rest


def _cut_lines(file: IO[bytes], compression: str, options: FormatOptions) -> Iterator[Record]:
    for number, line in enumerate(_lines(read_blocks(file, compression)), 1):
        if line and not line.isspace():
            yield Record(number, line)


def _cut_json(file: IO[bytes], compression: str, options: FormatOptions) -> Iterator[Record]:
    """One array, as WuDaoCorpora has it, or one object a line."""
    blocks = read_blocks(file, compression)
    start = b""
    for block in blocks:
        start += block
        if start.lstrip():
            break
    blocks = itertools.chain([start], blocks)
    if start.lstrip().startswith(b"["):
        elements = array_elements(blocks, MAX_RECORD_BYTES)
        yield from itertools.starmap(Record, enumerate(elements, 1))
    else:
        for number, line in enumerate(_lines(blocks), 1):
            if line and not line.isspace():
                yield Record(number, line)


def _decode_json(raw: bytes, options: FormatOptions) -> str:
    try:
        value = json.loads(raw.decode("utf-8"))
    except RecursionError as error:
        raise ValueError("the JSON is nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, found {type(value).__name__}")
    if options.json_key not in value:
        keys = ", ".join(map(repr, list(value)[:8])) or "none"
        raise ValueError(f"there is no key {options.json_key!r} (--json_key); its keys: {keys}")
    text = value[options.json_key]
    if not isinstance(text, str):
        raise ValueError(f"{options.json_key!r} is not a string but {type(text).__name__}")
    return text


def _cut_at_separator(
    file: IO[bytes], compression: str, options: FormatOptions
) -> Iterator[Record]:
    separator = options.separator.strip().encode()
    first, size = 1, 0
    lines: list[bytes] = []
    for number, line in enumerate(_lines(read_blocks(file, compression)), 1):
        if line.strip() != separator:
            if size <= MAX_RECORD_BYTES:
                lines.append(line)
                size += len(line) + 1
            continue
        if lines:
            yield Record(first, b"\n".join(lines))
        first, size, lines = number + 1, 0, []
    if lines:
        yield Record(first, b"\n".join(lines))


def _decode_text(raw: bytes, options: FormatOptions) -> str:
    return raw.decode("utf-8").replace("\r\n", "\n")


def _cut_table(file: IO[bytes], compression: str, options: FormatOptions) -> Iterator[Record]:
    yield from itertools.starmap(Record, enumerate(_parquet_texts(file, options.json_key), 1))


def _parquet_texts(file: IO[bytes], column: str) -> Iterator[bytes | None]:
    """One column of texts in UTF-8, None where there is none; a row group is in memory at a time.

    Raises OSError or ValueError where the file is damaged or has no such column of texts.
    """
    pyarrow = import_extra("pyarrow", "Files that end in .parquet need")
    from pyarrow import parquet

    table = parquet.ParquetFile(file)
    names = table.schema_arrow.names
    if column not in names:
        raise ValueError(f"there is no column {column!r} (--json_key); its columns: {names}")
    for batch in table.iter_batches(_ROWS_AT_ONCE, columns=[column]):
        texts = batch.column(0)
        if pyarrow.types.is_dictionary(texts.type):
            texts = texts.dictionary_decode()
        if not (pyarrow.types.is_string(texts.type) or pyarrow.types.is_large_string(texts.type)):
            raise ValueError(f"the column {column!r} is not of strings but of {texts.type}")
        yield from texts.cast(pyarrow.large_binary()).to_pylist()


def _decode_cell(raw: bytes, options: FormatOptions) -> str:
    return raw.decode("utf-8")


FORMATS = {
    ".jsonl": Format(_cut_lines, _decode_json),
    ".json": Format(_cut_json, _decode_json, "line or element"),
    ".txt": Format(_cut_at_separator, _decode_text),
    ".parquet": Format(_cut_table, _decode_cell, "row"),
}


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
