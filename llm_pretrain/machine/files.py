"""Files that are whole on the disk before they have their name, and what the system refuses, in
sentences: the file, the reason, and what to do about it."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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


_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ESTALE})
# NumPy's error when a file takes less than it was given.
_SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")


def is_fault(error: BaseException) -> bool:
    """Whether an error is the system's, of files or ports, and not a lost connection's."""
    if not isinstance(error, OSError) or isinstance(error, ConnectionError | TimeoutError):
        return False
    return _number(error) != 0


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Give an error of writing within the block the file's name, if it has none.

    The system names a file that can't be opened, but not one that is open and can't grow.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None and _number(error) in _DISK:
            error.filename = str(path)
        raise


def describe(error: BaseException) -> str:
    """An error in words for the user; one that is none of the system's says its own."""
    if not isinstance(error, OSError) or not is_fault(error):
        return str(error)
    # Of a copy the source comes first.
    is_copy = error.filename2 is not None and error.errno in _DISK
    name = error.filename2 if is_copy else error.filename
    if isinstance(name, bytes):
        name = os.fsdecode(name)
    if error.errno == errno.EADDRINUSE:
        return f"A port is in use: {error}. End the program that has it, or choose another port."
    advice = _ADVICE.get(_number(error), "")
    return f"{name or 'A file'}: {reason(error)}{advice}."


def reason(error: OSError) -> str:
    """Why the system refused, as it says itself."""
    return os.strerror(_number(error)) if _number(error) else str(error)


def _number(error: OSError) -> int:
    # Where a name has been added, the text of the error no longer holds its arguments.
    is_short = any(_SHORT_WRITE.search(str(argument)) for argument in error.args)
    return error.errno or (errno.ENOSPC if is_short else 0)


_ELSEWHERE = "or choose another folder"
_ADVICE = {
    errno.ENOSPC: f"; make room on that disk, {_ELSEWHERE}",
    errno.EDQUOT: f"; remove files of yours on that disk, {_ELSEWHERE}",
    errno.EFBIG: "; `ulimit -f` shows whether this process may write such large files",
    errno.EACCES: f"; have whoever owns it give you the right (`ls -ld` shows who), {_ELSEWHERE}",
    errno.EPERM: f"; have whoever owns it give you the right (`ls -ld` shows who), {_ELSEWHERE}",
    errno.EROFS: f"; mount that disk for writing, {_ELSEWHERE}",
    errno.ENOENT: "; if it was there before, something has removed it: start again when it is back",
    errno.EMFILE: "; allow this process more of them with `ulimit -n`",
    errno.ENFILE: "; the machine allows no more of them (`sysctl fs.file-max`)",
    errno.EIO: "; see whether that disk, or the connection to it, is sound (`dmesg`)",
    errno.ESTALE: "; see whether that disk, or the connection to it, is sound (`dmesg`)",
}
