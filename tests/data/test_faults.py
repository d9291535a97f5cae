"""What happens to files and processes in practice has a clear end: repaired, or a named file."""

from __future__ import annotations

import multiprocessing
import os
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from llm_pretrain.config import DataArguments
from llm_pretrain.data import DataError, Datasets, IndexedWriter, SampleCounts, build_datasets
from llm_pretrain.data.indexed_dataset import bin_path, index_path

FORK = multiprocessing.get_context("fork")
UNPRIVILEGED = 65534


def write(prefix: Path, length: int = 40, documents: int = 300) -> Path:
    """Documents whose tokens all are the document's length."""
    with IndexedWriter(prefix, np.uint16) as writer:
        for _ in range(documents):
            writer.add_document([length] * length)
    return prefix


def datasets(prefix: Path, cache: Path | None = None) -> Datasets:
    values = {"input_dir": str(prefix), "split": "1,0,0", "max_seq_length": 64}
    data = DataArguments.model_validate({**values, "data_cache": cache and str(cache)})
    return build_datasets(data, SampleCounts(train=50), seed=1, builder=True, vocab_size=None)


def error_in_process(work: Callable[[], object]) -> str:
    """What DataError `work` ends with in a process of its own, whose limits it may change."""
    receiver, sender = FORK.Pipe(duplex=False)

    def run() -> None:
        try:
            work()
            sender.send("no error")
        except DataError as error:
            sender.send(str(error))

    process = FORK.Process(target=run)
    process.start()
    assert receiver.poll(60)
    text = str(receiver.recv())
    process.join()
    return text


def test_truncated_bin_is_named(tmp_path: Path) -> None:
    prefix = write(tmp_path / "text")
    os.truncate(bin_path(prefix), 20_000)
    with pytest.raises(DataError, match=r"text\.bin is truncated"):
        datasets(prefix)


@pytest.mark.parametrize("at", [0, 9, 17, 18, 26, 37, 34 + 4 * 300 + 7, 34 + 12 * 300 + 8 * 300])
def test_flipped_byte_in_idx_is_named(tmp_path: Path, at: int) -> None:
    index = index_path(write(tmp_path / "text"))
    content = bytearray(index.read_bytes())
    content[at] ^= 0xFF
    index.write_bytes(content)
    with pytest.raises(DataError, match=r"text\.idx"):
        datasets(tmp_path / "text")


def test_file_that_vanishes_can_still_be_read(tmp_path: Path) -> None:
    prefix = write(tmp_path / "text")
    train = datasets(prefix).train
    assert train is not None
    bin_path(prefix).unlink()
    assert all((train[number].inputs == 40).all() for number in range(50))
    with pytest.raises(DataError, match=r"text\.bin"):
        datasets(prefix)


def test_file_that_is_cut_short_while_it_is_read_is_named(tmp_path: Path) -> None:
    prefix = write(tmp_path / "text")
    train = datasets(prefix).train
    assert train is not None
    os.truncate(bin_path(prefix), 4096)
    for number in range(50):
        with pytest.raises(DataError, match=r"text\.bin was cut short"):
            train[number]


def test_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    prefix = write(tmp_path / "text")

    def with_small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
        datasets(prefix)

    error = error_in_process(with_small_files)
    assert f"can't be written to {tmp_path / 'index-cache'}" in error
    assert "File too large" in error
    left = [path.suffix for path in (tmp_path / "index-cache").iterdir()]
    assert set(left) <= {".npy"}
    assert datasets(prefix).train is not None


def test_read_only_folder_of_data_wants_data_cache() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prefix = write(folder / "data" / "text")
        (folder / "cache").mkdir()
        (folder / "cache").chmod(0o777)
        folder.chmod(0o755)
        prefix.parent.chmod(0o555)

        def unprivileged(cache: Path | None) -> None:
            if os.geteuid() == 0:
                os.seteuid(UNPRIVILEGED)
            datasets(prefix, cache)

        error = error_in_process(lambda: unprivileged(None))
        assert f"can't be written to {prefix.parent / 'index-cache'}" in error
        assert "Set data_cache" in error
        assert error_in_process(lambda: unprivileged(folder / "cache")) == "no error"
        assert list((folder / "cache").iterdir())
        prefix.parent.chmod(0o755)


def test_data_that_was_made_anew_has_a_new_index(tmp_path: Path) -> None:
    prefix = write(tmp_path / "text", length=40)
    datasets(prefix)
    write(prefix, length=30, documents=400)
    train = datasets(prefix).train
    assert train is not None
    assert all((train[number].inputs == 30).all() for number in range(50))
