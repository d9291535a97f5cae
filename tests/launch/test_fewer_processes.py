"""A machine of two is lost: the other goes on with the same batch, and both where it comes back."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from llm_pretrain.monitor.metrics_log import read_metrics
from tests.launch.launched import Launched, losses, undisturbed, write_run
from tests.launching import events, free_port


def machine(config: Path, folder: Path, number: int, port: int) -> Launched:
    """One of two launchers on this machine, of two processes each."""
    options = ("--nnodes", 2, "--node_rank", number, "--master", f"127.0.0.1:{port}")
    return Launched(config, processes=2, log_dir=folder / f"log-{number}", machine=options)


def assert_same_losses(found: list[tuple[int, float]], expected: list[tuple[int, float]]) -> None:
    assert [step for step, _ in found] == [step for step, _ in expected]
    assert [loss for _, loss in found] == pytest.approx([loss for _, loss in expected], rel=1e-5)


@pytest.mark.parametrize(
    "options",
    [{}, pytest.param({"sharding": "stage1"}, marks=pytest.mark.slow)],
    ids=["data", "sharding"],
)
def test_the_machine_that_is_left_trains_to_the_end(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    config = write_run(tmp_path, min_processes=2, **options)
    expected = undisturbed(config, tmp_path, 4)
    port = free_port()
    with machine(config, tmp_path, 0, port) as first, machine(config, tmp_path, 1, port) as second:
        first.await_text("global_step: 7,")
        second.process.kill()
        assert first.wait() == 0, first.output()
    assert "Where a machine is lost, the job can go on with 2 processes" in first.text()
    assert "The launcher of machine 1 is gone: the ranks form anew" in first.text()
    assert "The job goes on with 2 of 4 processes, at the same batch" in first.text()
    assert "4 micro-steps × 2 data ranks" in first.text()
    (restart,) = events(tmp_path / "out", "restart")
    assert "The launcher of machine 1 is gone" in restart["message"]
    assert_same_losses(losses(tmp_path / "out"), expected)


def test_a_machine_that_comes_back_takes_part_from_the_next_checkpoint_on(tmp_path: Path) -> None:
    config = write_run(tmp_path, min_processes=2, max_steps=10_000)
    port = free_port()
    with machine(config, tmp_path, 0, port) as first:
        with machine(config, tmp_path, 1, port) as second:
            first.await_text("global_step: 7,")
            for process in second.processes().values():
                os.kill(process, signal.SIGKILL)
            second.process.kill()
        first.await_text("2 of 4 processes")
        first.await_text("Training goes on: step 6 ")
        with machine(config, tmp_path, 1, port) as second:
            first.await_text("Training goes on", 2)
            first.process.terminate()
            assert first.wait() == 128 + signal.SIGTERM, first.output()
            assert second.wait() == 128 + signal.SIGTERM, second.output()
    grown = int(re.findall(r"Training goes on: step (\d+) ", first.text())[1])
    assert grown % 5 == 1, "the step after a checkpoint"
    runs = [line["run"] for line in read_metrics(tmp_path / "out") if line["kind"] == "step"]
    found = losses(tmp_path / "out")
    assert sorted(set(runs)) == [1, 2, 3]
    again = ("--output_dir", tmp_path / "again")
    with Launched(config, *again, processes=4, log_dir=tmp_path / "log-again") as job:
        job.await_text(f"global_step: {len(found)},")
    assert_same_losses(found, losses(tmp_path / "again")[: len(found)])


def test_the_shards_of_a_lost_machine_are_in_the_memory_of_the_other(tmp_path: Path) -> None:
    """The files are damaged, so that whoever read them would begin at step 0."""
    config = write_run(
        tmp_path,
        sharding="stage1",
        min_processes=2,
        use_async_save=True,
        max_steps=10_000,
        # A checkpoint of step 10, and none after it for minutes.
        save_steps="auto",
        mean_time_between_failures=1000,
    )
    port = free_port()
    with machine(config, tmp_path, 0, port) as first, machine(config, tmp_path, 1, port) as second:
        first.await_text("Saved .*checkpoint-10:")
        first.await_text("global_step: 20,")
        files = list((tmp_path / "out" / "checkpoint-10" / "optimizer").glob("*.safetensors"))
        assert len(files) == 4
        for path in files:
            contents = path.read_bytes()
            path.write_bytes(contents[:-1] + bytes([contents[-1] ^ 1]))
        second.process.kill()
        first.await_text("Training goes on: step 11 ")
        assert "damaged" not in first.text()
        first.process.terminate()
        assert first.wait() == 128 + signal.SIGTERM, first.output()
