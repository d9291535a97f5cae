"""The same samples as PaddleNLP's own code, and files that it reads and writes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from llm_pretrain.config import DataArguments
from llm_pretrain.data import (
    BatchLoader,
    DataError,
    IndexedWriter,
    Sample,
    SampleCounts,
    build_datasets,
)
from llm_pretrain.data.find_data import open_data
from llm_pretrain.data.sample_index import plan_epochs
from llm_pretrain.data.sources import split_documents
from tests.data.npy_files import write_npy

pytestmark = pytest.mark.peer_paddlenlp


def run_peer(python: Path, cases: list[dict], folder: Path) -> list[dict[str, np.ndarray]]:
    """Results of the cases that have one, in order."""
    folder.mkdir()
    cases_path = folder / "cases.json"
    cases_path.write_text(json.dumps(cases))
    script = Path(__file__).with_name("data_paddlenlp.py")
    done = subprocess.run(
        [str(python), str(script), str(cases_path), str(folder)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    results = []
    for number in range(len(cases)):
        path = folder / f"{number}.npz"
        if path.exists():
            with np.load(path) as arrays:
                results.append(dict(arrays))
    return results


def write_random(prefix: Path, documents: int, longest: int, seed: int, *, empty: bool) -> None:
    random = np.random.default_rng(seed)
    with IndexedWriter(prefix, np.uint16) as writer:
        for _ in range(documents):
            length = int(random.integers(0 if empty else 1, longest))
            writer.add_document(random.integers(0, 60000, length))


def case(words: list[str], split: str, counts: list[int], length: int, seed: int) -> dict:
    return {
        "input": words,
        "split": split,
        "counts": counts,
        "sequence_length": length,
        "seed": seed,
    }


def test_samples_are_paddlenlps(tmp_path: Path, paddlenlp_python: Path) -> None:
    write_random(tmp_path / "a" / "web", 300, 90, seed=1, empty=True)
    write_random(tmp_path / "b" / "books", 57, 700, seed=2, empty=False)
    write_random(tmp_path / "c" / "code", 1200, 12, seed=3, empty=True)
    # All tokens are below 2^15, as the older form often has them.
    ids = np.random.default_rng(4).integers(0, 1 << 15, 5000).astype(np.int32)
    lens = np.full(100, 50, np.int32)
    write_npy(tmp_path / "d" / "old", ids, lens, np.arange(101, dtype=np.int64))
    write_random(tmp_path / "e" / "masked", 80, 60, seed=5, empty=False)
    size = (tmp_path / "e" / "masked.bin").stat().st_size // 2
    mask = np.random.default_rng(6).integers(0, 2, size).astype(np.uint8)
    (tmp_path / "e" / "masked.lsm").write_bytes(mask.tobytes())

    web, books, code = (str(tmp_path / name) for name in ("a/web", "b/books", "c/code"))
    old, masked = str(tmp_path / "d" / "old"), str(tmp_path / "e" / "masked")
    cases = [
        case([web], "949,50,1", [100, 3, 0], 16, 42),
        case([web], "80/10/10", [900, 20, 20], 32, 7),
        case([web], "900,50,50", [790, 5, 5], 16, 7),
        case([books], "0.5,0.25,0.25", [2000, 31, 77], 128, 1234),
        case([books], "8,1,1", [137, 1, 1], 127, 0),
        case([code], "98,1,1", [7000, 1, 1], 2, 42),
        case([code], "1,0,0", [61, 0, 0], 1023, 99),
        case([old], "90,5,5", [1000, 12, 3], 32, 5),
        case([masked], "8,1,1", [300, 10, 10], 24, 5),
        case(["0.7", web, "0.3", books], "90,5,5", [1500, 60, 9], 48, 42),
        case(["3", web, "2", code, "1", books], "8,1,1", [997, 100, 50], 64, 2),
        case(["1.0", web], "8,1,1", [400, 10, 10], 64, 2),
        case(["1.0", old, "1.0", web, "1.0", code], "8,1,1", [300, 1, 1], 20, 3),
    ]
    results = run_peer(paddlenlp_python, cases, tmp_path / "peer")

    assert len(results) == len(cases)
    separate = set()
    for number, (wanted, theirs) in enumerate(zip(cases, results, strict=True)):
        data = DataArguments(
            input_dir=" ".join(wanted["input"]),
            split=wanted["split"],
            max_seq_length=wanted["sequence_length"],
            data_cache=str(tmp_path / "cache"),
        )
        counts = SampleCounts(*wanted["counts"])
        ours = build_datasets(
            data, counts, seed=wanted["seed"], builder=True, timeout_s=1, vocab_size=65536
        )
        for name in ("train", "valid", "test"):
            dataset = getattr(ours, name)
            if dataset is None:
                assert counts.by_split()[name] == 0
                continue
            samples = [dataset[i] for i in range(len(dataset))]
            sources = len(wanted["input"]) // 2
            if name != "train" and len(samples) < sources:
                # PaddleNLP evaluates the first ones alone.
                continue
            np.testing.assert_array_equal(
                np.stack([sample.tokens for sample in samples]), theirs[name], f"{number} {name}"
            )
            if f"{name}_mask" in theirs:
                np.testing.assert_array_equal(
                    np.stack([sample.mask for sample in samples]), theirs[f"{name}_mask"]
                )
        if len(wanted["input"]) == 1:
            tokens = open_data(Path(wanted["input"][0]))
            train = split_documents(wanted["split"], len(tokens.sizes))["train"]
            total = int(tokens.sizes[train.start : train.stop].sum())
            plan = plan_epochs(total, wanted["sequence_length"], counts.train)
            separate.add((plan.epochs > 1, plan.separate_last_epoch))
    # The cases must reach one epoch, several, and both rules for the last one.
    assert separate == {(False, False), (True, False), (True, True)}


def test_index_cache_of_paddlenlp_is_used_while_it_fits(
    tmp_path: Path, paddlenlp_python: Path
) -> None:
    write_random(tmp_path / "a" / "web", 300, 90, seed=1, empty=True)
    write_random(tmp_path / "b" / "books", 200, 90, seed=2, empty=True)
    web, books = f"{tmp_path}/./a/web", f"{tmp_path}/b/books"
    cases = [
        case([web], "8,1,1", [700, 20, 20], 32, 7) | {"cache_beside_data": True},
        case(["0.7", web, "0.3", books], "8,1,1", [500, 20, 20], 32, 7),
    ]
    results = run_peer(paddlenlp_python, cases, tmp_path / "peer")
    caches = [tmp_path / "a" / "index-cache", tmp_path / "peer" / "cache1"]
    for wanted, theirs, cache in zip(cases, results, caches, strict=True):
        data = DataArguments(
            input_dir=" ".join(wanted["input"]),
            split=wanted["split"],
            max_seq_length=32,
            data_cache=str(cache),
        )
        counts = SampleCounts(*wanted["counts"])
        before = sorted(cache.iterdir())
        # Not the builder: what isn't found can't be made.
        ours = build_datasets(data, counts, seed=7, builder=False, timeout_s=0.1, vocab_size=None)
        assert sorted(cache.iterdir()) == before
        used = sum("is read from PaddleNLP's index" in line for line in ours.notices)
        assert used == 3 * sum("/" in word for word in wanted["input"])
        for name in ("train", "valid", "test"):
            dataset = getattr(ours, name)
            samples = np.stack([dataset[number].tokens for number in range(len(dataset))])
            np.testing.assert_array_equal(samples, theirs[name])

    # As many documents under the same name, with other lengths.
    write_random(tmp_path / "a" / "web", 300, 90, seed=3, empty=True)
    data = DataArguments(input_dir=web, split="8,1,1", max_seq_length=32)
    with pytest.raises(DataError, match="Waited"):
        build_datasets(
            data, SampleCounts(700), seed=7, builder=False, timeout_s=0.1, vocab_size=None
        )
    ours = build_datasets(
        data, SampleCounts(700), seed=7, builder=True, timeout_s=0.1, vocab_size=None
    )
    assert any("not used: the data has been written since" in line for line in ours.notices)
    # PaddleNLP would use its stale cache.
    (tmp_path / "a" / "index-cache").rename(tmp_path / "a" / "old-cache")
    (theirs,) = run_peer(paddlenlp_python, [cases[0]], tmp_path / "peer2")
    assert ours.train is not None
    samples = np.stack([ours.train[number].tokens for number in range(len(ours.train))])
    np.testing.assert_array_equal(samples, theirs["train"])


DOCUMENTS = [[[1, 2, 3], [4]], [[5] * 100], [[]], [[6, 7], [], [255]]]


def test_files_of_both_are_the_same_bytes(tmp_path: Path, paddlenlp_python: Path) -> None:
    types = ["uint8", "uint16", "int32", "int64", "uint32"]
    cases: list[dict] = []
    for dtype in types:
        with IndexedWriter(tmp_path / f"ours_{dtype}", np.dtype(dtype)) as writer:
            for sequences in DOCUMENTS:
                for sequence in sequences:
                    writer.add_sequence(np.array(sequence, np.int64))
                writer.end_document()
        theirs = str(tmp_path / f"theirs_{dtype}")
        cases.append({"write": theirs, "documents": DOCUMENTS, "dtype": dtype})
        cases.append({"read": str(tmp_path / f"ours_{dtype}")})
    results = run_peer(paddlenlp_python, cases, tmp_path / "peer")

    flat = [token for sequences in DOCUMENTS for sequence in sequences for token in sequence]
    for dtype, result in zip(types, results, strict=True):
        for ending in (".bin", ".idx"):
            ours = (tmp_path / f"ours_{dtype}{ending}").read_bytes()
            assert ours == (tmp_path / f"theirs_{dtype}{ending}").read_bytes()
        assert result["tokens"].tolist() == flat
        back = open_data(tmp_path / f"theirs_{dtype}")
        assert back.tokens.tolist() == flat
        assert back.sizes.tolist() == result["sizes"].tolist()
        assert back.documents == len(result["documents"]) - 1


def test_older_form_is_read_by_paddlenlp(tmp_path: Path, paddlenlp_python: Path) -> None:
    tokens = np.arange(20, dtype=np.uint16)
    write_npy(tmp_path / "old", tokens, np.array([5, 0, 15], np.int32), np.array([0, 1, 3]))
    cases = [{"read": str(tmp_path / "old")}]
    (result,) = run_peer(paddlenlp_python, cases, tmp_path / "peer")
    assert result["tokens"].tolist() == list(range(20))
    assert result["sizes"].tolist() == [5, 0, 15]
    assert result["documents"].tolist() == [0, 1, 3]


class Numbers:
    """A dataset of `length` samples, each of its own number twice."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> Sample:
        return Sample(np.array([number, number]), None)


def test_batches_of_every_rank_are_paddlenlps(tmp_path: Path, paddlenlp_python: Path) -> None:
    cases = [
        {
            "length": length,
            "batch_size": batch_size,
            "degree": degree,
            "rank": rank,
            "consumed": consumed * batch_size * degree,
        }
        for length in (24, 31)
        for batch_size in (1, 3)
        for degree in (1, 2, 4)
        for rank in range(degree)
        for consumed in (0, 1)
    ]
    results = run_peer(paddlenlp_python, [{"sampler": case} for case in cases], tmp_path / "peer")
    for wanted, theirs in zip(cases, results, strict=True):
        length, consumed = wanted.pop("length"), wanted.pop("consumed")
        with BatchLoader(Numbers(length), consumed_samples=consumed, **wanted) as loader:
            ours = [batch.tokens[:, 0].tolist() for batch in loader]
        assert ours == theirs["batches"].tolist()
