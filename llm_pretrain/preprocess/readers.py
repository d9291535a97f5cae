"""Text files by format: how a file is cut into records, and a record turned into a text.

Cutting runs in one process and must be cheap; decoding runs in the workers. A new format is a
`Format` more in FORMATS.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from llm_pretrain.preprocess.errors import PreprocessError

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class ReaderOptions:
    json_key: str = "text"
    """Key of the text in each line of a .jsonl file."""
    separator: str = ""
    """Line between two documents of a .txt file, blanks at its ends aside."""


@dataclass(frozen=True)
class Record:
    """One document as it stands in its file."""

    line: int
    """Number of its first line, from 1."""
    raw: bytes


@dataclass(frozen=True)
class Format:
    cut: Callable[[BinaryIO, ReaderOptions], Iterator[Record]]
    decode: Callable[[bytes, ReaderOptions], str]
    """Raises ValueError that says what is wrong with the record."""


def find_files(input_path: Path) -> tuple[list[Path], list[Path]]:
    """Files to read, sorted, and the files of other formats that are left out.

    `input_path` is a file or a folder, which is searched through all its levels.
    """
    known = ", ".join(sorted(FORMATS))
    if input_path.is_file():
        if input_path.suffix not in FORMATS:
            raise PreprocessError(
                f"--input_path {input_path}: the ending {input_path.suffix or '(none)'} is not "
                f"known; known are {known}."
            )
        return [input_path], []
    if not input_path.is_dir():
        raise PreprocessError(f"--input_path {input_path}: there is no such file or folder.")
    # As text, as PaddleNLP does: "a-b/x" is before "a/x".
    files = sorted((path for path in input_path.rglob("*") if path.is_file()), key=str)
    chosen = [path for path in files if path.suffix in FORMATS]
    if not chosen:
        raise PreprocessError(f"--input_path {input_path} holds no file that ends in {known}.")
    return chosen, [path for path in files if path.suffix not in FORMATS]


def read_records(path: Path, options: ReaderOptions) -> Iterator[Record]:
    """The records of one file, in order."""
    with path.open("rb") as file:
        if file.read(len(_BYTE_ORDER_MARK)) != _BYTE_ORDER_MARK:
            file.seek(0)
        yield from FORMATS[path.suffix].cut(file, options)


def decode_record(path: Path, raw: bytes, options: ReaderOptions) -> str:
    """Text of a record of that file. Raises ValueError that says what is wrong with it."""
    text = FORMATS[path.suffix].decode(raw, options)
    # JSON can spell halves of surrogate pairs, which no tokenizer takes.
    text.encode("utf-8")
    return text


def _cut_lines(file: BinaryIO, options: ReaderOptions) -> Iterator[Record]:
    for number, line in enumerate(file, 1):
        if line.strip():
            yield Record(number, line)


def _decode_json(raw: bytes, options: ReaderOptions) -> str:
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


def _cut_at_separator(file: BinaryIO, options: ReaderOptions) -> Iterator[Record]:
    separator = options.separator.strip().encode()
    first = 1
    lines: list[bytes] = []
    for number, line in enumerate(file, 1):
        if line.strip() == separator:
            if lines:
                yield Record(first, b"".join(lines))
            first, lines = number + 1, []
        else:
            lines.append(line)
    if lines:
        yield Record(first, b"".join(lines))


def _decode_text(raw: bytes, options: ReaderOptions) -> str:
    return raw.decode("utf-8").replace("\r\n", "\n")


FORMATS = {
    ".jsonl": Format(_cut_lines, _decode_json),
    ".txt": Format(_cut_at_separator, _decode_text),
}
