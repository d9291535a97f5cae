"""A job over two hosts with a network between them: what it computes, and its end without one."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.launching import PATIENCE_SECONDS, RUN_PRETRAIN, Job, logged, run_job
from tests.small_runs import small_config, write_config, write_data, write_model
from tests.training.two_hosts import Host, two_hosts

LAYOUT = {"tensor_parallel_degree": 2, "pipeline_parallel_degree": 2}
TIMEOUT_SECONDS = 10
PADDLES: tuple[object, ...] = ("--nproc_per_node", 2, RUN_PRETRAIN)
OUR_OWN: tuple[object, ...] = ("--nproc", 2)
"""Two processes on each host, by Paddle's launcher or by ours."""


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


def assert_same_curve(output_dir: Path, expected_dir: Path) -> None:
    for key in ("loss", "global_norm"):
        found = [line[key] for line in logged(output_dir)]
        expected = [line[key] for line in logged(expected_dir)]
        assert found == pytest.approx(expected, rel=1e-5)


def wait_until(is_so: Callable[[], bool], job: Job) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, job.output()
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("launch", "shares_folder"),
    [(PADDLES, True), (PADDLES, False), (OUR_OWN, True)],
    ids=["shared", "separate", "launch"],
)
def test_two_hosts_equal_one_process(
    hosts: tuple[Host, Host],
    one_process: Path,
    tmp_path: Path,
    launch: tuple[object, ...],
    shares_folder: bool,
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
        jobs.append(host.start(*launch, config, log_dir=tmp_path / "log" / host.name))
    with jobs[0], jobs[1]:
        for job in jobs:
            assert job.wait() == 0, job.output()
    disks = [path.parent for path in tmp_path.glob("*/data")]
    assert len(disks) == (1 if shares_folder else 2)
    for disk in disks:
        assert list((disk / "data" / "index-cache").iterdir()), "its own host built it"
    output_dir = tmp_path / ("shared" if shares_folder else hosts[0].name) / "out"
    assert_same_curve(output_dir, one_process / "out")


def test_a_rank_that_dies_on_one_host_is_replaced_there(
    hosts: tuple[Host, Host], one_process: Path, tmp_path: Path
) -> None:
    """Both launchers form the job anew; the steps are those of a run in which nothing happened."""
    output_dir = tmp_path / "out"
    changes = {**LAYOUT, "max_steps": 40, "save_strategy": "steps", "save_steps": 3}
    contents = small_config(one_process / "model", one_process / "data", output_dir, **changes)
    config = write_config(tmp_path / "config.json", {**contents, "share_folder": True})
    first, second = (host.start(*OUR_OWN, config, log_dir=tmp_path / host.name) for host in hosts)
    with first, second:
        wait_until(lambda: (output_dir / "checkpoint-3").exists(), first)
        (process,) = re.findall(r"Rank 3 is process (\d+)", second.console.read_text())
        os.kill(int(process), signal.SIGKILL)
        for job in (first, second):
            assert job.wait() == 0, job.output()
    assert "Rank 3" in first.console.read_text(), "the first host tells of the rank that died"
    assert "killed by SIGKILL" in first.console.read_text()
    steps = {line["global_step"]: line["loss"] for line in logged(output_dir)}
    assert sorted(steps) == list(range(1, 41))
    for line in logged(output_dir):
        assert line["loss"] == steps[line["global_step"]], "a step that was repeated"


def test_a_cut_link_leaves_the_first_host_to_go_on(
    hosts: tuple[Host, Host], one_process: Path, tmp_path: Path
) -> None:
    """With `min_processes`: no word of the link's end reaches either side."""
    output_dir = tmp_path / "out"
    changes = {
        "max_steps": 24,
        "save_strategy": "steps",
        "save_steps": 3,
        "gradient_accumulation_steps": 1,
        "min_processes": 2,
        "distributed_timeout": 2 * TIMEOUT_SECONDS,
    }
    contents = small_config(one_process / "model", one_process / "data", output_dir, **changes)
    config = write_config(tmp_path / "config.json", {**contents, "share_folder": True})
    first, second = (host.start(*OUR_OWN, config, log_dir=tmp_path / host.name) for host in hosts)
    with first, second:
        wait_until(lambda: (output_dir / "checkpoint-3").exists(), first)
        hosts[1].unplug()
        assert first.wait() == 0, first.output()
        assert second.wait() == 1, second.output()
    assert "The job goes on with 2 of 4 processes" in first.console.read_text()
    assert "The first machine's launcher is gone" in second.console.read_text()
    steps = {line["global_step"]: line["loss"] for line in logged(output_dir)}
    assert sorted(steps) == list(range(1, 25))
    for line in logged(output_dir):
        assert line["loss"] == pytest.approx(steps[line["global_step"]], rel=1e-5)


def test_a_cut_link_ends_the_job_on_both_sides(
    hosts: tuple[Host, Host], one_process: Path, tmp_path: Path
) -> None:
    changes = {**LAYOUT, "max_steps": 100_000, "distributed_timeout": TIMEOUT_SECONDS}
    output_dir = tmp_path / "out"
    contents = small_config(one_process / "model", one_process / "data", output_dir, **changes)
    config = write_config(tmp_path / "config.json", {**contents, "share_folder": True})
    first, second = (host.start(*PADDLES, config, log_dir=tmp_path / host.name) for host in hosts)
    log = output_dir / "train_log.jsonl"
    with first, second:
        wait_until(lambda: log.exists() and bool(logged(output_dir)), first)
        hosts[1].unplug()
        for job in (first, second):
            assert job.wait() != 0
    assert f"lost rank 2 on {hosts[1].address}, silent for" in first.console.read_text()
    assert f"lost rank 0 on {hosts[0].address}, silent for" in second.console.read_text()
