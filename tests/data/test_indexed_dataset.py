from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm_pretrain.data import DataError, IndexedWriter
from llm_pretrain.data.indexed_dataset import open_indexed

# Three sequences in two documents, [[1, 2], [3]] and [[65535]], byte by byte.
BIN = bytes.fromhex("0100 0200 0300 ffff")
IDX = (
    b"MMIDIDX\x00\x00"
    + bytes.fromhex("0100000000000000 08 0300000000000000 0300000000000000")
    + bytes.fromhex("02000000 01000000 01000000")
    + bytes.fromhex("0000000000000000 0400000000000000 0600000000000000")
    + bytes.fromhex("0000000000000000 0200000000000000 0300000000000000")
)


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    (tmp_path / "x.bin").write_bytes(BIN)
    (tmp_path / "x.idx").write_bytes(IDX)
    return tmp_path / "x"


def idx(
    sizes: list[int], pointers: list[int], starts: list[int], *, version: int = 1, code: int = 8
) -> bytes:
    head = struct.pack("<9sQBQQ", b"MMIDIDX\0\0", version, code, len(sizes), len(starts))
    return head + struct.pack(
        f"<{len(sizes)}i{len(pointers)}q{len(starts)}q", *sizes, *pointers, *starts
    )


def test_published_layout_is_read(prefix: Path) -> None:
    data = open_indexed(prefix)
    assert data.tokens.dtype == np.uint16
    assert data.documents == 2
    assert data.token_count == 4
    assert [data.read(i, 0, None)[0].tolist() for i in range(3)] == [[1, 2], [3], [65535]]
    assert data.read(0, 1, 1)[0].tolist() == [2]
    assert data.mask is None
    assert data.notices == ()


def test_published_layout_is_written(tmp_path: Path) -> None:
    with IndexedWriter(tmp_path / "x", np.uint16) as writer:
        writer.add_sequence([1, 2])
        writer.add_sequence([3])
        writer.end_document()
        writer.add_document([65535])
    assert (tmp_path / "x.bin").read_bytes() == BIN
    assert (tmp_path / "x.idx").read_bytes() == IDX
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.bin", "x.idx"]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    dtype=st.sampled_from(["u1", "i1", "<i2", "<i4", "<i8", "<u2", "<u4", "<u8"]),
    documents=st.lists(st.lists(st.integers(0, 127), max_size=9), min_size=1, max_size=20),
)
def test_what_is_written_is_read(tmp_path: Path, dtype: str, documents: list[list[int]]) -> None:
    prefix = tmp_path / "round"
    with IndexedWriter(prefix, np.dtype(dtype)) as writer:
        for document in documents:
            writer.add_document(document)
    if not any(documents):
        with pytest.raises(DataError, match="no tokens"):
            open_indexed(prefix)
        return
    data = open_indexed(prefix)
    assert data.tokens.dtype == np.dtype(dtype)
    assert [data.read(i, 0, None)[0].tolist() for i in range(len(documents))] == documents


def test_many_documents_at_once_are_the_same_bytes(tmp_path: Path) -> None:
    documents = [[1, 2, 3], [4], [5, 6]]
    with IndexedWriter(tmp_path / "one", np.int32) as writer:
        for document in documents:
            writer.add_document(document)
    with IndexedWriter(tmp_path / "all", np.int32) as writer:
        writer.add_documents(np.arange(1, 7, dtype=np.uint32), np.array([3, 1, 2]))
    for ending in (".bin", ".idx"):
        one, all_ = (tmp_path / f"{name}{ending}" for name in ("one", "all"))
        assert one.read_bytes() == all_.read_bytes()


def test_modes_of_multimodal_data_are_tolerated(prefix: Path) -> None:
    prefix.with_suffix(".idx").write_bytes(IDX + bytes(3))
    assert open_indexed(prefix).token_count == 4


def test_tokens_outside_the_index_are_said(prefix: Path) -> None:
    prefix.with_suffix(".bin").write_bytes(BIN + bytes(6))
    (notice,) = open_indexed(prefix).notices
    assert "last 6 bytes" in notice
    assert "x.bin" in notice


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (b"", "doesn't begin with MMIDIDX"),
        (IDX[:20], "doesn't begin with MMIDIDX"),
        (b"PK\x03\x04" + IDX[4:], "doesn't begin with MMIDIDX"),
        (b"TNTIDX\0\0" + bytes(80), "`lazy` format"),
        (IDX[:-1], "truncated or damaged"),
        (IDX + b"\0", "truncated or damaged"),
        (idx([2], [0], [0, 1], version=2), "version 2"),
        (idx([2], [0], [0, 1], code=11), "unknown token type 11"),
        (idx([2], [0], [0, 1], code=0), "unknown token type 0"),
        (idx([1], [0], [0, 1], code=6), "float64"),
        (idx([], [], [0]), "no documents"),
        (idx([1], [0], [0]), "no documents"),
        (idx([0, 0], [0, 0], [0, 1, 2]), "data is empty"),
        (idx([1, -1], [0, 2], [0, 1, 2]), "sequence 1 has -1 tokens"),
        (idx([5], [0], [0, 1]), "ends at byte 10 or beyond, the file has 8"),
        (idx([1], [1], [0, 1]), "into a token"),
        (idx([1], [-2], [0, 1]), "before the first"),
        (idx([1], [2**62], [0, 1]), "ends at byte 4611686018427387904 or beyond"),
        (idx([1], [2**63 - 1], [0, 1]), "into a token"),
        (idx([1, 1], [0, 2], [0, 1]), "sequences 0 to 1"),
        (idx([1, 1], [0, 2], [1, 2]), "sequences 1 to 2"),
        (idx([1, 1], [0, 2], [0, 2, 1, 2]), "rising order"),
        (struct.pack("<9sQBQQ", b"MMIDIDX\0\0", 1, 8, 2**64 - 1, 2**64 - 1), "truncated"),
    ],
)
def test_damaged_index_is_named(prefix: Path, index: bytes, message: str) -> None:
    prefix.with_suffix(".idx").write_bytes(index)
    with pytest.raises(DataError, match=message) as caught:
        open_indexed(prefix)
    assert str(prefix) in str(caught.value)


@pytest.mark.parametrize("tokens", [b"", BIN[:-1], BIN[:-2]])
def test_truncated_tokens_are_named(prefix: Path, tokens: bytes) -> None:
    prefix.with_suffix(".bin").write_bytes(tokens)
    with pytest.raises(DataError, match=r"x\.bin is truncated"):
        open_indexed(prefix)


@pytest.mark.parametrize("missing", [".bin", ".idx"])
def test_half_a_pair_is_an_error(prefix: Path, missing: str) -> None:
    prefix.with_suffix(missing).unlink()
    with pytest.raises(DataError, match=f"has no x{missing} beside it"):
        open_indexed(prefix)


def test_loss_mask(tmp_path: Path) -> None:
    prefix = tmp_path / "x"
    with IndexedWriter(prefix, np.uint16, masked=True) as writer:
        writer.add_document([5, 6, 7], [1, 0, 1])
        writer.add_document([8], [0])
    assert (tmp_path / "x.lsm").read_bytes() == bytes([1, 0, 1, 0])
    _, mask = open_indexed(prefix).read(0, 1, 2)
    assert mask is not None
    assert mask.tolist() == [0, 1]

    (tmp_path / "x.lsm").write_bytes(bytes(3))
    with pytest.raises(DataError, match=r"x\.lsm has 3 bytes"):
        open_indexed(prefix)


def test_new_data_does_not_inherit_an_old_mask(tmp_path: Path) -> None:
    with IndexedWriter(tmp_path / "x", np.uint16, masked=True) as writer:
        writer.add_document([5, 6, 7], [1, 0, 1])
    with IndexedWriter(tmp_path / "x", np.uint16) as writer:
        writer.add_document([5, 6, 7])
    assert open_indexed(tmp_path / "x").mask is None


def test_interrupted_writer_leaves_the_old_pair(prefix: Path) -> None:
    def interrupted() -> None:
        with IndexedWriter(prefix, np.int32) as writer:
            writer.add_document([1])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert prefix.with_suffix(".bin").read_bytes() == BIN
    assert prefix.with_suffix(".idx").read_bytes() == IDX
    assert len(list(prefix.parent.iterdir())) == 2


@pytest.mark.parametrize("token", [-1, 65536])
def test_token_that_does_not_fit_is_an_error(tmp_path: Path, token: int) -> None:
    with (
        pytest.raises(DataError, match="don't fit into uint16"),
        IndexedWriter(tmp_path / "x", np.uint16) as writer,
    ):
        writer.add_document([token])
    assert list(tmp_path.iterdir()) == []


def test_reading_past_a_sequence_is_an_error(prefix: Path) -> None:
    data = open_indexed(prefix)
    for offset, length in ((0, 3), (3, None), (-1, 1), (1, -1)):
        with pytest.raises(DataError, match="sequence 0"):
            data.read(0, offset, length)
