"""Entries written here as PaddleNLP lays them out; tests/peers reads those that it wrote itself."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from llm_pretrain.config import DataArguments
from llm_pretrain.data import DataError, Datasets, IndexedWriter, SampleCounts, build_datasets

COUNTS = SampleCounts(train=60)
LENGTHS = [30, 7, 0, 12, 25, 40, 3, 18]


def write(prefix: Path, lengths: list[int]) -> None:
    with IndexedWriter(prefix, np.uint16) as writer:
        for number, length in enumerate(lengths):
            writer.add_document([number] * length)


def build(folder: Path, *, builder: bool = True) -> Datasets:
    data = DataArguments(input_dir=str(folder), split="1,0,0", max_seq_length=8)
    return build_datasets(data, COUNTS, seed=3, builder=builder, timeout_s=0.1, vocab_size=None)


def samples(datasets: Datasets) -> np.ndarray:
    assert datasets.train is not None
    return np.stack([datasets.train[number].tokens for number in range(len(datasets.train))])


@pytest.fixture
def entry(tmp_path: Path) -> Path:
    """An entry of PaddleNLP's cache, beside data without any other index."""
    write(tmp_path / "web", LENGTHS)
    train = build(tmp_path).train
    assert train is not None
    cache = tmp_path / "index-cache"
    arrays = {"doc": train.index.documents, "sample": train.index.samples}
    arrays["shuffle"] = train.index.shuffle
    description = (
        f"GPT Dataset\n\nData prefix {tmp_path}/web\nDataset name train\nNumber of samples 60\n"
        "Sequence length 8\nRandom seed 3\nSplit 1,0,0\n"
    )
    entry = cache / hashlib.md5(description.encode()).hexdigest()
    own = list(cache.iterdir())
    for name, array in arrays.items():
        np.save(f"{entry}_{name}_idx.npy", array)
    entry.with_suffix(".dsc").write_text(description)
    for path in own:
        path.unlink()
    return entry


def of(entry: Path, name: str) -> Path:
    return entry.with_name(f"{entry.name}_{name}_idx.npy")


def test_entry_is_used_and_nothing_built(tmp_path: Path, entry: Path) -> None:
    before = sorted(entry.parent.iterdir())
    # Another order that is as valid shows which one is read.
    shuffle = np.load(of(entry, "shuffle"))
    first_epochs = len(shuffle) // 2
    shuffle[:first_epochs] = shuffle[:first_epochs][::-1]
    np.save(of(entry, "shuffle"), shuffle)
    datasets = build(tmp_path, builder=False)
    assert datasets.train is not None
    np.testing.assert_array_equal(datasets.train.index.shuffle, shuffle)
    assert "is read from PaddleNLP's index" in "\n".join(datasets.notices)
    assert sorted(entry.parent.iterdir()) == before


def rebuilt(entry: Path) -> None:
    write(entry.parents[1] / "web", LENGTHS)


def other_lengths_with_an_old_date(entry: Path) -> None:
    """As `cp -p` leaves it."""
    write(entry.parents[1] / "web", [*LENGTHS[1:], LENGTHS[0]])
    for name in ("web.bin", "web.idx"):
        os.utime(entry.parents[1] / name, (1, 1))


def pickled(entry: Path) -> None:
    np.save(of(entry, "doc"), np.array([print], object), allow_pickle=True)


def cut_short(entry: Path) -> None:
    path = of(entry, "sample")
    path.write_bytes(path.read_bytes()[:-8])


def with_one_changed(name: str, value: int) -> Callable[[Path], None]:
    def change(entry: Path) -> None:
        array = np.load(of(entry, name))
        array.flat[1] = value
        np.save(of(entry, name), array)

    return change


def as_floats(entry: Path) -> None:
    np.save(of(entry, "doc"), np.load(of(entry, "doc")).astype(np.float64))


def one_missing(entry: Path) -> None:
    of(entry, "shuffle").unlink()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (rebuilt, "the data has been written since"),
        (other_lengths_with_an_old_date, "lengths of the documents are others now"),
        (pickled, "can't be read"),
        (cut_short, "can't be read"),
        (one_missing, "can't be read"),
        (as_floats, "doc_idx is float64"),
        (with_one_changed("doc", 100), "doc_idx doesn't hold every number"),
        (with_one_changed("doc", -1), "doc_idx doesn't hold every number"),
        (with_one_changed("shuffle", 0), "shuffle_idx doesn't hold every number"),
        (with_one_changed("sample", 3), "lengths of the documents are others now"),
        (lambda entry: entry.with_suffix(".dsc").write_text("x"), "describes something else"),
    ],
)
def test_entry_that_does_not_fit_is_passed_over(
    tmp_path: Path, entry: Path, damage: Callable[[Path], None], reason: str
) -> None:
    damage(entry)
    with pytest.raises(DataError, match="Waited"):
        build(tmp_path, builder=False)
    datasets = build(tmp_path)
    (notice,) = datasets.notices
    assert f"{entry}_*.npy is not used: " in notice
    assert reason in notice
    assert len(samples(datasets)) >= 60
