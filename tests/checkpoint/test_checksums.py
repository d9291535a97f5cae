"""A checkpoint's files are those that were written, or the first that isn't is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llm_pretrain.checkpoint.checksums import (
    FILE_NAME,
    Checksums,
    DamagedCheckpointError,
    assert_whole,
    checksum,
    join_notes,
    note_files,
)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Files of two ranks, with the list of their checksums."""
    checkpoint = tmp_path / "checkpoint-8"
    (checkpoint / "optimizer").mkdir(parents=True)
    for rank in (0, 1):
        path = checkpoint / "optimizer" / f"rank-{rank:05d}.safetensors"
        path.write_bytes(bytes(range(1, 256)) * 100 * (rank + 1))
        note_files(checkpoint, rank, [path])
    join_notes(checkpoint)
    return checkpoint


def test_the_checksum_is_the_published_one(tmp_path: Path) -> None:
    """RFC 3720, appendix B.4, and the check value of CRC-32C."""
    path = tmp_path / "file"
    for contents, crc in ((b"123456789", "e3069283"), (bytes(32), "8a9136aa"), (b"", "00000000")):
        path.write_bytes(contents)
        assert checksum(path) == (len(contents), crc)


def test_a_whole_checkpoint_is_whole(checkpoint: Path) -> None:
    checksums = assert_whole(checkpoint)
    assert sorted(checksums.files) == [f"optimizer/rank-0000{rank}.safetensors" for rank in (0, 1)]
    assert checksums.size == 255 * 300
    assert [path.name for path in checkpoint.iterdir() if path.is_file()] == [FILE_NAME]


def zeros(path: Path) -> None:
    contents = bytearray(path.read_bytes())
    contents[8192:12288] = bytes(4096)
    path.write_bytes(contents)


def one_bit(path: Path) -> None:
    contents = bytearray(path.read_bytes())
    contents[-1] ^= 0x10
    path.write_bytes(contents)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [zeros, one_bit, cut, Path.unlink])
def test_a_damaged_file_is_named(checkpoint: Path, damage: Callable[[Path], None]) -> None:
    path = checkpoint / "optimizer" / "rank-00001.safetensors"
    damage(path)
    with pytest.raises(DamagedCheckpointError, match=str(path)):
        assert_whole(checkpoint)
    # Missing and cut files are found without reading, the others when they are read.
    checksums = Checksums(checkpoint)
    if damage in (cut, Path.unlink):
        with pytest.raises(DamagedCheckpointError, match=str(path)):
            checksums.assert_complete()
    else:
        checksums.assert_complete()
        checksums.assert_undamaged(checkpoint / "optimizer" / "rank-00000.safetensors")
        with pytest.raises(DamagedCheckpointError, match="contents are not those"):
            checksums.assert_undamaged(path)


@pytest.mark.parametrize("contents", ["", "[]", '{"a": 1}', '{"a": {"size": 1}}', "\udcff"])
def test_a_damaged_list_is_named(checkpoint: Path, contents: str) -> None:
    (checkpoint / FILE_NAME).write_bytes(contents.encode(errors="surrogateescape"))
    with pytest.raises(DamagedCheckpointError, match=FILE_NAME):
        assert_whole(checkpoint)


def test_a_checkpoint_without_a_list_is_of_an_earlier_version(tmp_path: Path) -> None:
    assert assert_whole(tmp_path).files == {}
