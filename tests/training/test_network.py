"""A job over two hosts with a network between them: what it computes, and its end without one."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launching import PATIENCE_SECONDS, RUN_PRETRAIN, logged, run_job
from tests.small_runs import small_config, write_config, write_data, write_model
from tests.training.two_hosts import Host, two_hosts

LAYOUT = {"tensor_parallel_degree": 2, "pipeline_parallel_degree": 2}
TIMEOUT_SECONDS = 10


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    with two_hosts() as hosts:
        yield hosts


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one_process")
    write_model(folder / "model")
    write_data(folder / "data")
    config = small_config(folder / "model", folder / "data", folder / "out", max_steps=4)
    run_job(RUN_PRETRAIN, write_config(folder / "config.json", config), log_dir=folder / "log")
    return folder


@pytest.mark.parametrize("shares_folder", [True, False], ids=["shared", "separate"])
def test_two_hosts_equal_one_process(
    hosts: tuple[Host, Host], one_process: Path, tmp_path: Path, shares_folder: bool
) -> None:
    jobs = []
    for host in hosts:
        disk = tmp_path / ("shared" if shares_folder else host.name)
        if not disk.exists():
            shutil.copytree(one_process / "data", disk / "data")
            shutil.rmtree(disk / "data" / "index-cache")
        changes = {**LAYOUT, "max_steps": 4, "share_folder": shares_folder}
        contents = small_config(one_process / "model", disk / "data", disk / "out", **changes)
        config = write_config(tmp_path / f"{host.name}.json", contents)
        arguments = ("--nproc_per_node", 2, RUN_PRETRAIN, config)
        jobs.append(host.start(*arguments, log_dir=tmp_path / "log" / host.name))
    with jobs[0], jobs[1]:
        for job in jobs:
            assert job.wait() == 0, job.output()
    disks = [path.parent for path in tmp_path.glob("*/data")]
    assert len(disks) == (1 if shares_folder else 2)
    for disk in disks:
        assert list((disk / "data" / "index-cache").iterdir()), "its own host built it"
    output_dir = tmp_path / ("shared" if shares_folder else hosts[0].name) / "out"
    for key in ("loss", "global_norm"):
        found = [line[key] for line in logged(output_dir)]
        expected = [line[key] for line in logged(one_process / "out")]
        assert found == pytest.approx(expected, rel=1e-5)


def test_a_cut_link_ends_the_job_on_both_sides(
    hosts: tuple[Host, Host], one_process: Path, tmp_path: Path
) -> None:
    changes = {**LAYOUT, "max_steps": 100_000, "distributed_timeout": TIMEOUT_SECONDS}
    output_dir = tmp_path / "out"
    contents = small_config(one_process / "model", one_process / "data", output_dir, **changes)
    config = write_config(tmp_path / "config.json", {**contents, "share_folder": True})
    arguments = ("--nproc_per_node", 2, RUN_PRETRAIN, config)
    first, second = (host.start(*arguments, log_dir=tmp_path / host.name) for host in hosts)
    with first, second:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (output_dir / "train_log.jsonl").exists() or not logged(output_dir):
            assert time.monotonic() < deadline, first.output()
            time.sleep(0.1)
        hosts[1].unplug()
        for job in (first, second):
            assert job.wait() != 0
    assert f"lost rank 2 on {hosts[1].address}, silent for" in first.console.read_text()
    assert f"lost rank 0 on {hosts[0].address}, silent for" in second.console.read_text()
