"""What the system refuses, as the user reads it."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path

import numpy as np
import pytest

from llm_pretrain.machine.files import describe, is_fault, naming

FULL = Path("/dev/full")


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "make room"),
        (errno.EDQUOT, "remove files of yours"),
        (errno.EACCES, "give you the right"),
        (errno.ENOENT, "removed it"),
        (errno.EMFILE, "ulimit -n"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EROFS, "for writing"),
        (errno.EISDIR, ""),
    ],
)
def test_an_error_names_the_file_the_reason_and_what_to_do(number: int, advice: str) -> None:
    error = OSError(number, os.strerror(number), "/some/file")
    sentence = describe(error)
    assert sentence.startswith(f"/some/file: {os.strerror(number)}")
    assert advice in sentence
    assert sentence.endswith(".")
    assert "\n" not in sentence


@pytest.mark.parametrize(
    "error", [ValueError("as it is"), ConnectionResetError(104, "reset"), TimeoutError("no answer")]
)
def test_what_is_no_fault_of_files_keeps_its_words(error: Exception) -> None:
    assert not is_fault(error)
    assert describe(error) == str(error)


@pytest.mark.skipif(not FULL.exists(), reason="a file that is always full is Linux's")
def test_writing_to_an_open_file_names_it() -> None:
    with (
        FULL.open("wb", 0) as file,
        pytest.raises(OSError, match="No space") as caught,
        naming("the/file"),
    ):
        file.write(b"1")
    assert describe(caught.value).startswith("the/file: No space left on device")


@pytest.mark.skipif(not FULL.exists(), reason="a file that is always full is Linux's")
def test_an_array_that_is_written_in_part_means_a_full_disk() -> None:
    with (
        FULL.open("wb", 0) as file,
        pytest.raises(OSError, match="the/array") as caught,
        naming("the/array"),
    ):
        np.arange(100_000).tofile(file)
    assert describe(caught.value).startswith("the/array: No space left on device")


def test_a_name_that_is_known_stays(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, naming("another"):
        (tmp_path / "missing").open()
    assert describe(caught.value).startswith(str(tmp_path / "missing"))
    with pytest.raises(io.UnsupportedOperation) as unsupported, naming("another"):
        io.BytesIO().fileno()
    assert not is_fault(unsupported.value)
