"""With distributed_dataloader one rank of a tensor group or pipeline reads for all of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm_pretrain.data.indexed_dataset import bin_path
from tests.launching import RUN_PRETRAIN, Job, logged, run_job
from tests.small_runs import small_config, write_config, write_data, write_model

FAULTY = Path(__file__).with_name("failing_rank.py")
READING_RANK = Path(__file__).with_name("reading_rank.py")
LAYOUTS = {
    "tp2": {"tensor_parallel_degree": 2},
    "pp2": {"pipeline_parallel_degree": 2},
}


def written_config(folder: Path, output: Path, **changes: Any) -> Path:
    contents = small_config(
        write_model(folder / "model"),
        write_data(folder / "data"),
        output,
        max_steps=3,
        gradient_accumulation_steps=2,
        do_eval=True,
        evaluation_strategy="steps",
        eval_steps=3,
        eval_iters=2,
        **changes,
    )
    return write_config(output.with_suffix(".json"), contents)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_losses_are_the_same_although_the_other_rank_has_no_data(
    tmp_path: Path, layout: str
) -> None:
    each, shared = tmp_path / "each", tmp_path / "shared"
    config = written_config(tmp_path, each, **LAYOUTS[layout])
    run_job(RUN_PRETRAIN, config, processes=2, log_dir=tmp_path / "log")
    config = written_config(
        tmp_path,
        shared,
        distributed_dataloader=True,
        dataloader_num_workers=1,
        **LAYOUTS[layout],
    )
    run_job(READING_RANK, "0", config, processes=2, log_dir=tmp_path / "log2")
    for kind, key in (("step", "loss"), ("evaluation", "eval_loss")):
        values = [[line[key] for line in logged(folder, kind)] for folder in (each, shared)]
        assert values[0] == values[1] != []
    assert all(0 <= line["data_wait_share"] <= 1 for line in logged(shared))


@pytest.mark.parametrize("fault", ["no data", "cut data", "damaged index"])
def test_an_error_of_the_reading_rank_ends_all(tmp_path: Path, fault: str) -> None:
    config = written_config(
        tmp_path, tmp_path / "out", distributed_dataloader=True, **LAYOUTS["tp2"]
    )
    data = tmp_path / "data"
    if fault == "cut data":
        bin_path(data / "text").write_bytes(b"\0" * 7)
    if fault == "damaged index":
        # It can be opened, and fails where the first sample is read.
        run_job(RUN_PRETRAIN, config, processes=2, log_dir=tmp_path / "log")
        for path in (data / "index-cache").glob("*_doc_idx.npy"):
            np.save(path, np.full_like(np.load(path), 10**6))
        for path in (data / "index-cache").glob("*.json"):
            # Large arrays have no checksum.
            path.write_text(json.dumps(json.loads(path.read_text()) | {"checksums": {}}))
    reader = "none" if fault == "no data" else "0"
    with Job(READING_RANK, reader, config, processes=2, log_dir=tmp_path / "log2") as job:
        assert job.wait() != 0
    reasons = {"no data": "/nowhere", "cut data": "text.bin", "damaged index": "index cache of"}
    assert reasons[fault] in job.console.read_text()


def one_sample_each(folder: Path, **changes: Any) -> Path:
    """A config of two data-parallel ranks, of which rank 0 builds the index for both."""
    contents = small_config(
        write_model(folder / "model"),
        write_data(folder / "data"),
        folder / "out",
        max_steps=2,
        gradient_accumulation_steps=1,
        **changes,
    )
    return write_config(folder / "config.json", contents)


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_ranks_wait_for_data_longer_than_for_a_message(tmp_path: Path, rank: int) -> None:
    config = one_sample_each(tmp_path, distributed_timeout=10)
    run_job(FAULTY, rank, "slow data", config, processes=2, log_dir=tmp_path / "log")


def test_a_rank_that_can_not_build_the_index_ends_all(tmp_path: Path) -> None:
    config = one_sample_each(tmp_path)
    (tmp_path / "data" / "index-cache").write_text("a file where the folder should be")
    with Job(RUN_PRETRAIN, config, processes=2, log_dir=tmp_path / "log") as job:
        assert job.wait() != 0
    assert "error: The index of the data can't be written to" in job.console.read_text()
