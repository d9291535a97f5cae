from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest

from llm_pretrain.data.token_data import map_file, map_npy

SIZES = [4, 100_000]  # read, and mapped


@pytest.mark.parametrize("size", SIZES)
def test_arrays_of_files(tmp_path: Path, size: int) -> None:
    numbers = np.arange(size, dtype=np.int32).reshape(-1, 2)
    numbers.tofile(tmp_path / "x.bin")
    np.save(tmp_path / "x.npy", numbers)
    for array in (map_file(tmp_path / "x.bin", np.int32), map_npy(tmp_path / "x.npy")):
        np.testing.assert_array_equal(array.ravel(), numbers.ravel())
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    assert map_npy(tmp_path / "x.npy").shape == numbers.shape


def test_array_lives_as_long_as_a_view_of_it(tmp_path: Path) -> None:
    np.arange(100_000).tofile(tmp_path / "x.bin")
    views = [map_file(tmp_path / "x.bin", np.int64)[90_000 + i :] for i in range(100)]
    assert [int(view[0]) for view in views] == list(range(90_000, 90_100))


def test_more_files_than_descriptors(tmp_path: Path) -> None:
    np.arange(100_000).tofile(tmp_path / "x.bin")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(200, before[1]), before[1]))
        arrays = [map_file(tmp_path / "x.bin", np.int64) for _ in range(1000)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert all(int(array[-1]) == 99_999 for array in arrays)


@pytest.mark.parametrize("size", SIZES)
def test_damaged_arrays_are_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.arange(size))
    whole = path.read_bytes()
    for content in (whole[:-1], whole + b"x", whole[:20], b""):
        path.write_bytes(content)
        with pytest.raises((ValueError, EOFError)):
            map_npy(path)
    np.save(path, np.array([print] * size, object), allow_pickle=True)
    with pytest.raises(ValueError, match="no array of numbers"):
        map_npy(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        map_file(tmp_path / "x", np.uint8)
