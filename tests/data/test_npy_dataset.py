from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from llm_pretrain.data import DataError
from llm_pretrain.data.npy_dataset import open_npy
from tests.data.npy_files import write_npy


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    tokens = np.array([1, 2, 3, 4, 5], np.int32)
    write_npy(tmp_path / "x", tokens, np.array([2, 0, 3], np.int32), np.array([0, 2, 3]))
    return tmp_path / "x"


def npy(array: np.ndarray, *, pickled: bool = False) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, allow_pickle=pickled)
    return file.getvalue()


def write_npz(prefix: Path, **members: bytes) -> None:
    with zipfile.ZipFile(f"{prefix}_idx.npz", "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)


def test_both_files_are_read(prefix: Path) -> None:
    data = open_npy(prefix)
    assert [data.read(i, 0, None)[0].tolist() for i in range(3)] == [[1, 2], [], [3, 4, 5]]
    assert data.read(2, 1, 1)[0].tolist() == [4]
    assert data.documents == 2
    assert not data.tokens.flags.writeable, "a view of the file"


def test_compressed_index_is_read(prefix: Path) -> None:
    np.savez_compressed(f"{prefix}_idx.npz", lens=np.array([5]), docs=np.array([0, 1]))
    assert open_npy(prefix).read(0, 0, None)[0].tolist() == [1, 2, 3, 4, 5]


LENS, DOCS = npy(np.array([2, 0, 3], np.int32)), npy(np.array([0, 2, 3]))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"lens": LENS}, "lacks the array `docs`"),
        ({"docs": DOCS}, "lacks the array `lens`"),
        ({"lens": LENS[:-1], "docs": DOCS}, "not a readable .npz"),
        ({"lens": LENS, "docs": b"nonsense"}, "not a readable .npz"),
        ({"lens": npy(np.array([2.0, 3.0])), "docs": DOCS}, "`lens` .* row of integers"),
        ({"lens": npy(np.array([[2, 0, 3]])), "docs": DOCS}, "`lens` .* row of integers"),
        ({"lens": npy(np.array([2, -1, 3])), "docs": DOCS}, "sequence 1 has -1 tokens"),
        ({"lens": npy(np.array([2, 0, 2**31])), "docs": DOCS}, "sequence of more than"),
        ({"lens": npy(np.array([2, 0, 2**64 - 1], np.uint64)), "docs": DOCS}, "beyond int64"),
        ({"lens": npy(np.zeros(0, np.int32)), "docs": npy(np.array([0]))}, "no documents"),
        ({"lens": npy(np.array([2, 0, 9])), "docs": DOCS}, "11 tokens are listed"),
        ({"lens": LENS, "docs": npy(np.array([0, 2]))}, "sequences 0 to 2"),
        ({"lens": npy(np.array([2, 3], object), pickled=True), "docs": DOCS}, "readable .npz"),
    ],
)
def test_damaged_index_is_named(prefix: Path, members: dict[str, bytes], message: str) -> None:
    write_npz(prefix, **members)
    with pytest.raises(DataError, match=message) as caught:
        open_npy(prefix)
    assert str(prefix) in str(caught.value)


def test_header_that_claims_a_terabyte_is_not_believed(prefix: Path) -> None:
    header = LENS.replace(b"(3,), }" + b" " * 11, b"(300000000000,), }", 1)
    assert header != LENS
    assert len(header) == len(LENS)
    write_npz(prefix, lens=header, docs=DOCS)
    with pytest.raises(DataError, match="header claims"):
        open_npy(prefix)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a readable .npy"),
        (b"MMIDIDX\0\0", "not a readable .npy"),
        (npy(np.array([1, 2, 3, 4, 5]))[:-1], "not a readable .npy"),
        (npy(np.array([1, 2, 3, 4, 5])) + b"\0", "41 bytes of numbers instead of 40"),
        (npy(np.array([1.0] * 5)), "float64"),
        (npy(np.array([[1, 2, 3, 4, 5]])), "one row"),
        (npy(np.array([1, 2], object), pickled=True), "not a readable .npy"),
        (npy(np.array([1, 2, 3])), "5 tokens are listed, the file has 3"),
    ],
)
def test_damaged_tokens_are_named(prefix: Path, content: bytes, message: str) -> None:
    path = Path(f"{prefix}_ids.npy")
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        open_npy(prefix)
    assert str(path) in str(caught.value)
