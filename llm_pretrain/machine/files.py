"""Files that are whole on the disk before they have their name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llm_pretrain.machine.faults import naming


@contextmanager
def replacing(path: Path, *, writer: int | str = 0, flush: bool = True) -> Iterator[Path]:
    """Give the name of a file to write within the block, which then takes the place of `path`.

    An exception within the block leaves `path` as it was.

    Args:
        writer: tells those apart that write the same to one place at the same time.
        flush: whether to wait for the disk first; if not, the name may survive a crash of the
            machine without the contents.
    """
    unfinished = path.with_name(f"{path.name}.{writer}.writing")
    try:
        with naming(path):
            yield unfinished
            if flush:
                flush_file(unfinished)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_text(path: Path, text: str, *, writer: int | str = 0, flush: bool = True) -> None:
    """Write `path` in one move; `writer` and `flush` as in `replacing`."""
    with replacing(path, writer=writer, flush=flush) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def flush_file(path: Path) -> None:
    """Have the file's contents on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
