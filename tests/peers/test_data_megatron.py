"""Megatron reads the files of this program, and the other way round; its samples are the same."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from llm_pretrain.config import DataArguments
from llm_pretrain.data import IndexedWriter, SampleCounts, build_datasets
from llm_pretrain.data.find_data import open_data

pytestmark = pytest.mark.peer_megatron

# All integers that Megatron has a code for.
TYPES = ("uint8", "int8", "int16", "int32", "int64", "uint16")
DOCUMENTS = [[[1, 2, 3], [4]], [[5] * 100], [[]], [[6, 7], [], [127]]]
TOKENS = [token for sequences in DOCUMENTS for sequence in sequences for token in sequence]


def run_peer(python: Path, cases: list[dict], folder: Path) -> dict[int, dict[str, np.ndarray]]:
    """Results by the number of the case, of the cases that have one."""
    folder.mkdir()
    cases_path = folder / "cases.json"
    cases_path.write_text(json.dumps(cases))
    script = Path(__file__).with_name("data_megatron.py")
    done = subprocess.run(
        [str(python), str(script), str(cases_path), str(folder)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if "No module named 'megatron" in done.stderr:
        pytest.skip(f"{python} has no megatron-core (make peers)")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    results = {}
    for number in range(len(cases)):
        path = folder / f"{number}.npz"
        if path.exists():
            with np.load(path) as arrays:
                results[number] = dict(arrays)
    return results


def test_each_reads_what_the_other_writes(tmp_path: Path, megatron_python: Path) -> None:
    cases: list[dict] = []
    for dtype in TYPES:
        with IndexedWriter(tmp_path / f"ours_{dtype}", np.dtype(dtype)) as writer:
            for sequences in DOCUMENTS:
                for sequence in sequences:
                    writer.add_sequence(np.array(sequence, np.int64))
                writer.end_document()
        cases.append({"read": str(tmp_path / f"ours_{dtype}")})
        theirs = str(tmp_path / f"theirs_{dtype}")
        cases.append({"write": theirs, "documents": DOCUMENTS, "dtype": dtype})
    results = run_peer(megatron_python, cases, tmp_path / "peer")

    for dtype, result in zip(TYPES, results.values(), strict=True):
        assert result["tokens"].dtype == dtype
        assert result["tokens"].tolist() == TOKENS
        back = open_data(tmp_path / f"theirs_{dtype}")
        assert back.tokens.dtype == dtype
        assert back.tokens.tolist() == TOKENS
        assert back.sizes.tolist() == result["sizes"].tolist() == [3, 1, 100, 0, 2, 0, 1]
        assert back.document_starts.tolist() == result["documents"].tolist() == [0, 2, 3, 4, 7]
        for ending in (".bin", ".idx"):
            ours = (tmp_path / f"ours_{dtype}{ending}").read_bytes()
            assert ours == (tmp_path / f"theirs_{dtype}{ending}").read_bytes()


# One epoch; three; and two, of which the last is shuffled by itself.
@pytest.mark.parametrize("count", [100, 1400, 560])
def test_samples_are_megatrons(tmp_path: Path, megatron_python: Path, count: int) -> None:
    random = np.random.default_rng(count)
    with IndexedWriter(tmp_path / "data" / "text", np.uint16) as writer:
        for size in random.integers(1, 100, 300):
            writer.add_document(random.integers(0, 60000, size))
    prefix = str(tmp_path / "data" / "text")
    asked = {"samples": prefix, "count": count, "sequence_length": 31, "seed": 7}
    theirs = run_peer(megatron_python, [asked], tmp_path / "peer")[0]

    data = DataArguments(input_dir=prefix, split="1,0,0", max_seq_length=31)
    ours = build_datasets(
        data, SampleCounts(train=count), seed=7, builder=True, timeout_s=1, vocab_size=65536
    ).train
    assert ours is not None
    samples = [ours[number] for number in range(len(ours))]
    np.testing.assert_array_equal(np.stack([one.inputs for one in samples]), theirs["tokens"])
    np.testing.assert_array_equal(np.stack([one.labels for one in samples]), theirs["labels"])
