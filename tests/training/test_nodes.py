"""Two launchers, as on two nodes, give what one launcher with as many processes gives."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.launching import RUN_PRETRAIN, Job, free_port, logged, run_job
from tests.small_runs import small_config, write_config, write_data, write_model

OPTIONS = {"max_steps": 4, "gradient_accumulation_steps": 4, "save_strategy": "steps"}


@pytest.fixture(scope="module")
def one_node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nodes")
    write_model(folder / "model")
    write_data(folder / "data")
    config = small_config(folder / "model", folder / "data", folder / "out", **OPTIONS)
    path = write_config(folder / "config.json", config)
    run_job(RUN_PRETRAIN, path, processes=2, log_dir=folder / "log")
    return folder


@pytest.mark.parametrize(
    ("shares_disk", "layout"),
    [
        (True, {}),
        (False, {}),
        (False, {"tensor_parallel_degree": 2, "gradient_accumulation_steps": 8}),
    ],
    ids=["shared", "separate", "separate, tensor 2"],
)
def test_two_nodes_equal_one(
    one_node: Path, tmp_path: Path, shares_disk: bool, layout: dict[str, Any]
) -> None:
    master = f"127.0.0.1:{free_port()}"
    jobs = []
    for node in (0, 1):
        home = tmp_path / ("shared" if shares_disk else f"node{node}")
        if not (home / "data").exists():
            shutil.copytree(one_node / "data", home / "data")
            shutil.rmtree(home / "data" / "index-cache")
        changes = {**OPTIONS, **layout, "save_steps": 2, "share_folder": shares_disk}
        config = small_config(one_node / "model", home / "data", home / "out", **changes)
        jobs.append(
            Job(
                RUN_PRETRAIN,
                write_config(tmp_path / f"node{node}.json", config),
                log_dir=tmp_path / f"log{node}",
                launcher_arguments=("--nnodes", "2", "--master", master, "--rank", str(node)),
            )
        )
    with jobs[0], jobs[1]:
        for job in jobs:
            assert job.wait() == 0, job.output()
    output_dir = tmp_path / ("shared" if shares_disk else "node0") / "out"
    found = [(line["loss"], line["global_norm"]) for line in logged(output_dir)]
    expected = [(line["loss"], line["global_norm"]) for line in logged(one_node / "out")]
    # A node's processes have other numbers of threads, whose sums have another order: as between
    # layouts, a few hundred roundings of 2⁻²⁴.
    assert np.array(found) == pytest.approx(np.array(expected), rel=1e-5)
    saved, final = (
        folder / "model.safetensors" for folder in (output_dir / "checkpoint-4", output_dir)
    )
    assert saved.read_bytes() == final.read_bytes(), "gathered, or made of the masters"
    if not shares_disk:
        other = tmp_path / "node1" / "out" / "checkpoint-4"
        assert list(other.glob("optimizer/rank-*.safetensors")), "its node can resume from it"
