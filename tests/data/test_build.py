from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from llm_pretrain.config import DataArguments
from llm_pretrain.data import DataError, Datasets, IndexedWriter, SampleCounts, build_datasets
from llm_pretrain.data.cache import IndexCache


def write(prefix: Path, documents: int = 100, *, length: int = 30, seed: int = 0) -> None:
    random = np.random.default_rng(seed)
    with IndexedWriter(prefix, np.uint16) as writer:
        for _ in range(documents):
            writer.add_document(random.integers(0, 500, length))


TRAIN = SampleCounts(train=50)


def build(folder: Path, counts: SampleCounts = TRAIN, **changes) -> Datasets:
    values = {"input_dir": str(folder), "split": "8,1,1", "max_seq_length": 16, **changes}
    options = {
        name: values.pop(name) for name in ("seed", "builder", "vocab_size") if name in values
    }
    options = {"seed": 42, "builder": True, "vocab_size": 500, **options}
    return build_datasets(DataArguments(**values), counts, timeout_s=0.1, **options)


def samples(dataset) -> np.ndarray:
    return np.stack([dataset[number].tokens for number in range(len(dataset))])


def test_only_wanted_splits_are_built(tmp_path: Path) -> None:
    write(tmp_path / "web")
    datasets = build(tmp_path, SampleCounts(train=50, test=3))
    assert datasets.valid is None
    assert datasets.train is not None
    assert datasets.test is not None
    assert len(datasets.train) >= 50
    assert len(datasets.test) >= 3
    sample = datasets.train[0]
    assert sample.tokens.shape == (17,)
    assert sample.tokens.dtype == np.int64
    assert sample.mask is None


def test_splits_share_no_token(tmp_path: Path) -> None:
    with IndexedWriter(tmp_path / "web", np.uint16) as writer:
        for document in range(100):
            writer.add_document([document] * 20)
    datasets = build(tmp_path, SampleCounts(200, 20, 20))
    train, valid, test = (
        set(samples(dataset).ravel().tolist())
        for dataset in (datasets.train, datasets.valid, datasets.test)
    )
    assert max(train) < 80 <= min(valid)
    assert max(valid) < 90 <= min(test)


def test_others_read_what_the_builder_wrote(tmp_path: Path) -> None:
    write(tmp_path / "web")
    with pytest.raises(DataError, match="Waited"):
        build(tmp_path, builder=False)
    built, read = build(tmp_path), build(tmp_path, builder=False)
    np.testing.assert_array_equal(samples(built.train), samples(read.train))
    assert (tmp_path / "index-cache").is_dir()


def test_data_cache_is_used_unless_index_cache_has_the_index(tmp_path: Path) -> None:
    write(tmp_path / "data" / "web")
    build(tmp_path / "data", data_cache=str(tmp_path / "extra"))
    assert not (tmp_path / "data" / "index-cache").exists()
    assert list((tmp_path / "extra").glob("*_shuffle_idx.npy"))
    build(tmp_path / "data")
    for path in (tmp_path / "extra").iterdir():
        path.unlink()
    build(tmp_path / "data", builder=False, data_cache=str(tmp_path / "extra"))
    assert not list((tmp_path / "extra").iterdir())


def test_cache_moves_with_the_data(tmp_path: Path) -> None:
    write(tmp_path / "here" / "web")
    before = samples(build(tmp_path / "here").train)
    (tmp_path / "here").rename(tmp_path / "there")
    after = samples(build(tmp_path / "there", builder=False).train)
    np.testing.assert_array_equal(before, after)


def test_rebuilt_data_has_a_new_index(tmp_path: Path) -> None:
    write(tmp_path / "web", documents=100, length=30)
    build(tmp_path)
    # As many bytes in both files, but other lengths.
    with IndexedWriter(tmp_path / "web", np.uint16) as writer:
        for document in range(100):
            writer.add_document([document] * (10 if document % 2 else 50))
    fresh = samples(build(tmp_path).train)
    other = tmp_path / "other"
    with IndexedWriter(other / "web", np.uint16) as writer:
        for document in range(100):
            writer.add_document([document] * (10 if document % 2 else 50))
    np.testing.assert_array_equal(fresh, samples(build(other).train))


def test_time_of_the_data_is_in_the_key(tmp_path: Path) -> None:
    write(tmp_path / "web")
    build(tmp_path)
    os.utime(tmp_path / "web.bin", (1, 1))
    with pytest.raises(DataError, match="Waited"):
        build(tmp_path, builder=False)


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"max_seq_length": 15}, {"split": "7,2,1"}], ids=str
)
def test_each_setting_is_in_the_key(tmp_path: Path, change: dict) -> None:
    write(tmp_path / "web")
    build(tmp_path)
    with pytest.raises(DataError, match="Waited"):
        build(tmp_path, builder=False, **change)


def test_blend_has_exactly_the_samples_asked_for(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write(tmp_path / name, seed=ord(name))
    datasets = build(tmp_path, SampleCounts(train=333, valid=10))
    assert len(datasets.train) == 333
    assert len(datasets.valid) == 10
    assert datasets.train[332].tokens.shape == (17,)


def test_zero_documents_in_a_wanted_split(tmp_path: Path) -> None:
    write(tmp_path / "web", documents=10)
    with pytest.raises(DataError, match=r"gives no document of .*web to valid"):
        build(tmp_path, SampleCounts(train=5, valid=1), split="949,50,1")
    assert build(tmp_path, SampleCounts(train=5), split="949,50,1").valid is None


def test_sample_longer_than_the_data(tmp_path: Path) -> None:
    write(tmp_path / "web", documents=10, length=4)
    assert len(build(tmp_path, SampleCounts(train=3), max_seq_length=31).train) >= 3
    with pytest.raises(DataError, match=r"a sample takes 33 tokens, but the train split of .*web"):
        build(tmp_path, SampleCounts(train=1), max_seq_length=32)


def test_ids_beyond_the_vocabulary(tmp_path: Path) -> None:
    with IndexedWriter(tmp_path / "web", np.int32) as writer:
        for _ in range(10):
            writer.add_document([1, 2, 99] * 9)
    build(tmp_path, vocab_size=100)
    with pytest.raises(DataError, match=r"web\.bin holds the token id 99, .* ends at 98"):
        build(tmp_path, vocab_size=99)
    build(tmp_path, vocab_size=None)


def test_negative_ids(tmp_path: Path) -> None:
    with IndexedWriter(tmp_path / "web", np.int32) as writer:
        for _ in range(10):
            writer.add_document([1, -5] * 9)
    with pytest.raises(DataError, match="token id -5"):
        build(tmp_path)


def test_tokens_are_scanned_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "web")
    build(tmp_path)

    def scan(*_: object) -> None:
        raise AssertionError("scanned again")

    monkeypatch.setattr("llm_pretrain.data.build.scan_token_range", scan)
    build(tmp_path, seed=7)
    # The type alone rules out an id beyond such a vocabulary.
    os.utime(tmp_path / "web.bin", (1, 1))
    build(tmp_path, vocab_size=65536)


def test_error_in_the_builder_is_everybodys(tmp_path: Path) -> None:
    write(tmp_path / "web")
    build(tmp_path)
    for is_builder in (True, False):
        with pytest.raises(DataError, match="token id 4"):
            build(tmp_path, builder=is_builder, vocab_size=400)


def test_damaged_index_values_are_an_error_not_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Large arrays have no checksum.
    monkeypatch.setattr("llm_pretrain.data.cache._SMALL_BYTES", 0)
    write(tmp_path / "web")
    build(tmp_path)
    for name in ("doc", "sample", "shuffle"):
        (path,) = (tmp_path / "index-cache").glob(f"*_{name}_idx.npy")
        whole = path.read_bytes()
        path.write_bytes(whole[:-64] + b"\x7f" * 64)
        dataset = build(tmp_path, builder=False).train
        with pytest.raises(DataError, match=r"index cache of .*web is damaged"):
            samples(dataset)
        path.write_bytes(whole)
    assert len(samples(build(tmp_path, builder=False).train)) >= 50


def test_loss_mask_reaches_the_samples(tmp_path: Path) -> None:
    with IndexedWriter(tmp_path / "web", np.uint16, masked=True) as writer:
        for _ in range(100):
            writer.add_document(np.arange(30), np.arange(30) % 2)
    sample = build(tmp_path).train[0]
    np.testing.assert_array_equal(sample.mask, sample.tokens % 2)


def test_notices_of_the_files_are_handed_on(tmp_path: Path) -> None:
    write(tmp_path / "web")
    with (tmp_path / "web.bin").open("ab") as file:
        file.write(bytes(4))
    (notice,) = build(tmp_path).notices
    assert "4 bytes" in notice


def test_cache_is_asked_for_nothing_unwanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "web")
    asked: list[str] = []
    fetch = IndexCache.fetch

    def spy(self: IndexCache, description: str, make):
        asked.append(description)
        return fetch(self, description, make)

    monkeypatch.setattr(IndexCache, "fetch", spy)
    build(tmp_path, SampleCounts(train=5), vocab_size=None)
    (description,) = asked
    assert "Dataset name: train" in description
    assert "web.bin, 6000 bytes, modified" in description


def test_many_files_hold_no_descriptor(tmp_path: Path) -> None:
    for number in range(30):
        # Too large to be read at once.
        write(tmp_path / f"part{number:02}", 2000)
    before = len(os.listdir("/proc/self/fd"))
    datasets = build(tmp_path, SampleCounts(train=300))
    assert len(samples(datasets.train)) == 300
    assert len(os.listdir("/proc/self/fd")) == before


def test_small_files_of_many_leave_no_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the first start with tens of thousands of files writes four files for each."""
    for number in range(4):
        write(tmp_path / f"part{number}", 20)
    write(tmp_path / "part4", 2000)
    expected = samples(build(tmp_path, SampleCounts(train=300), vocab_size=60000).train)
    shutil.rmtree(tmp_path / "index-cache")
    monkeypatch.setattr("llm_pretrain.data.build._MANY_FILES", 4)
    built = build(tmp_path, SampleCounts(train=300), vocab_size=60000)
    np.testing.assert_array_equal(samples(built.train), expected)
    lists = [path.read_text() for path in (tmp_path / "index-cache").glob("*.json")]
    assert lists
    assert all("part4" in text for text in lists)
    with pytest.raises(DataError, match="part0"):
        build(tmp_path, SampleCounts(train=300), vocab_size=5)


def test_notices_of_many_files_are_cut_short(tmp_path: Path) -> None:
    for number in range(15):
        write(tmp_path / f"part{number:02}")
        with (tmp_path / f"part{number:02}.bin").open("ab") as file:
            file.write(b"\0\0")
    notices = build(tmp_path).notices
    assert len(notices) == 13
    assert notices[-1] == "There are 3 more such notices."


def test_named_validation_sets_are_whole_files_beside_the_training_data(tmp_path: Path) -> None:
    for seed, name in enumerate(("train", "web", "code")):
        write(tmp_path / name, seed=seed)
    counts = SampleCounts(train=50, valid=12)
    named = {"web": str(tmp_path / "web"), "code": str(tmp_path / "code")}
    datasets = build(tmp_path / "train", counts, split="1,0,0", eval_data=named)
    assert datasets.train is not None
    assert datasets.valid is None
    assert list(datasets.named_valid) == ["web", "code"]
    for name, part in datasets.named_valid.items():
        alone = build(tmp_path / name, SampleCounts(valid=12), split="0,1,0").valid
        np.testing.assert_array_equal(samples(part), samples(alone))


def test_validation_reaches_beyond_the_first_of_many_files(tmp_path: Path) -> None:
    for number in range(30):
        with IndexedWriter(tmp_path / f"part-{number:02}", np.uint16) as writer:
            for _ in range(20):
                writer.add_document([number] * 20)
    valid = build(tmp_path, SampleCounts(valid=10)).valid
    assert valid is not None
    assert samples(valid)[:, 0].tolist() == list(range(1, 30, 3))
    # Where every file has a sample in turn, the order is PaddleNLP's.
    valid = build(tmp_path, SampleCounts(valid=60)).valid
    assert samples(valid)[:, 0].tolist() == [*range(30), *range(30)]
