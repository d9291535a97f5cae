from __future__ import annotations

import multiprocessing
import threading
from pathlib import Path

import numpy as np
import pytest

from llm_pretrain.data import DataError
from llm_pretrain.data.cache import Arrays, IndexCache


def arrays() -> Arrays:
    return {"a": np.arange(5, dtype=np.int32), "b": np.eye(3)}


def never() -> Arrays:
    raise AssertionError("nothing was to be built")


def broken() -> Arrays:
    raise DataError("the moon is full")


def builder(*folders: Path) -> IndexCache:
    return IndexCache(folders, builder=True, timeout_s=0)


def waiter(folder: Path, timeout_s: float = 60) -> IndexCache:
    return IndexCache([folder], builder=False, timeout_s=timeout_s)


def test_entry_is_built_once_and_then_read(tmp_path: Path) -> None:
    built = builder(tmp_path / "c").fetch("thing", arrays)
    for found in (built, builder(tmp_path / "c").fetch("thing", never)):
        np.testing.assert_array_equal(found["a"], np.arange(5))
        np.testing.assert_array_equal(found["b"], np.eye(3))
    assert not [path for path in (tmp_path / "c").iterdir() if path.name.endswith(".writing")]


def test_another_description_is_another_entry(tmp_path: Path) -> None:
    builder(tmp_path).fetch("thing", arrays)
    other = builder(tmp_path).fetch("other thing", lambda: {"a": np.zeros(1)})
    assert other["a"].shape == (1,)


def test_first_folder_wins_and_the_last_is_written(tmp_path: Path) -> None:
    beside, extra = tmp_path / "index-cache", tmp_path / "extra"
    builder(beside, extra).fetch("thing", arrays)
    assert not beside.exists()
    builder(beside).fetch("thing", lambda: {"a": np.zeros(1)})
    assert builder(beside, extra).fetch("thing", never)["a"].shape == (1,)


@pytest.mark.parametrize(
    "damage", ["truncate", "empty", "zeros", "missing", "foreign", "manifest", "zeros of manifest"]
)
def test_damaged_entry_is_built_again(tmp_path: Path, damage: str) -> None:
    builder(tmp_path).fetch("thing", arrays)
    array = next(tmp_path.glob("*_b.npy"))
    if damage == "truncate":
        array.write_bytes(array.read_bytes()[:-1])
    elif damage == "empty":
        array.write_bytes(b"")
    elif damage == "zeros":
        # What a crash of the machine may leave: the length is on the disk, and the content is not.
        content = array.read_bytes()
        array.write_bytes(content[:-16] + bytes(16))
    elif damage == "zeros of manifest":
        manifest = next(tmp_path.glob("*.json"))
        manifest.write_bytes(bytes(manifest.stat().st_size))
    elif damage == "missing":
        array.unlink()
    elif damage == "foreign":
        np.save(array, np.zeros(9))
    else:
        next(tmp_path.glob("*.json")).write_text("{")
    np.testing.assert_array_equal(builder(tmp_path).fetch("thing", arrays)["b"], np.eye(3))
    np.testing.assert_array_equal(waiter(tmp_path).fetch("thing", never)["b"], np.eye(3))


def test_an_entry_that_comes_in_sight_late_is_waited_for(tmp_path: Path) -> None:
    late = threading.Timer(0.3, lambda: builder(tmp_path).fetch("thing", arrays))
    late.start()
    found = waiter(tmp_path).fetch("thing", never)
    late.join()
    np.testing.assert_array_equal(found["a"], np.arange(5))


def test_time_out_gives_the_reason(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Waited 0\.1 s .* is not there.* share_folder to false"):
        waiter(tmp_path, 0.1).fetch("thing", never)
    builder(tmp_path).fetch("thing", arrays)
    next(tmp_path.glob("*_a.npy")).write_bytes(b"rubbish")
    with pytest.raises(DataError, match="can't be read"):
        waiter(tmp_path, 0.1).fetch("thing", never)


def test_a_failure_leaves_no_entry(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the moon is full"):
        builder(tmp_path).fetch("thing", broken)
    assert waiter(tmp_path).find("thing") is None
    np.testing.assert_array_equal(builder(tmp_path).fetch("thing", arrays)["a"], np.arange(5))


def test_folder_that_cannot_be_written_suggests_data_cache(tmp_path: Path) -> None:
    (tmp_path / "index-cache").write_text("a file where the folder should be")
    with pytest.raises(DataError, match=r"index-cache: .*\. Set data_cache to a folder"):
        builder(tmp_path / "index-cache").fetch("thing", never)


def build_and_check(folder: Path, barrier: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    for number in range(30):
        found = builder(folder).fetch(f"thing {number}", arrays)
        np.testing.assert_array_equal(found["a"], np.arange(5))


def test_two_builders_at_once_do_no_harm(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    processes = [
        context.Process(target=build_and_check, args=(tmp_path, barrier)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
    assert [process.exitcode for process in processes] == [0, 0]
    for number in range(30):
        assert waiter(tmp_path).fetch(f"thing {number}", never)["b"].shape == (3, 3)
    assert not list(tmp_path.glob("*.writing"))
