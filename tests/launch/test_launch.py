"""Ranks that are killed under `llm-pretrain launch`: the others stay, the losses are the same."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from llm_pretrain.monitor.metrics_log import read_metrics
from tests.launch.launched import Launched, losses, undisturbed, write_run
from tests.launching import events


def test_a_rank_killed_in_a_step_is_replaced_while_the_other_stays(tmp_path: Path) -> None:
    config = write_run(tmp_path)
    expected = undisturbed(config, tmp_path, 2)
    with Launched(config, processes=2, log_dir=tmp_path / "log") as job:
        job.await_text("global_step: 7,")
        first = job.processes()
        job.kill(1)
        job.await_text("Training goes on")
        second = job.processes()
        assert second[0] == first[0]
        assert second[1] != first[1]
        job.await_text("global_step: 14,")
        job.kill(0)
        job.await_text("Training goes on", 2)
        third = job.processes()
        assert third[1] == second[1]
        assert third[0] != second[0]
        assert job.wait() == 0, job.output()
    assert losses(tmp_path / "out") == expected
    assert max(line["run"] for line in read_metrics(tmp_path / "out")) == 3
    assert not list((tmp_path / "out").glob("*.writing"))


def test_ranks_killed_at_the_start_and_in_a_save_of_four(tmp_path: Path) -> None:
    config = write_run(tmp_path, tensor_parallel_degree=2, sharding="stage1")
    expected = undisturbed(config, tmp_path, 4)
    with Launched(config, processes=4, log_dir=tmp_path / "log") as job:
        job.await_text("Rank 3 is process")
        job.kill(2)
        job.await_text("Rank 2 is process", 2)
        job.await_text("Training starts at step 0")
        job.kill(0)
        job.await_text("global_step: 2,")
        survivors = job.processes()
        restarts = job.text().count("Training goes on")
        job.await_(lambda: any((tmp_path / "out").glob("*.writing")), "save")
        job.kill(3)
        job.await_text("Training goes on", restarts + 1)
        after = job.processes()
        assert {rank for rank in after if after[rank] != survivors[rank]} == {3}
        assert job.wait() == 0, job.output()
    assert losses(tmp_path / "out") == expected


def test_ranks_go_back_to_copies_in_memory(tmp_path: Path) -> None:
    """The files are damaged when a rank dies, so that whoever read them would begin at step 0."""
    config = write_run(
        tmp_path,
        sharding="stage1",
        use_async_save=True,
        max_steps=10_000,
        # The copy of step 10, and none after it for minutes.
        save_steps="auto",
        mean_time_between_failures=1000,
    )
    found = {}
    for name, is_disturbed in (("undisturbed", False), ("disturbed", True)):
        output = tmp_path / name
        log = tmp_path / f"log-{name}"
        with Launched(config, "--output_dir", output, processes=2, log_dir=log) as job:
            if is_disturbed:
                job.await_text("Saved .*checkpoint-10:")
                for path in (output / "checkpoint-10" / "optimizer").glob("*.safetensors"):
                    contents = path.read_bytes()
                    path.write_bytes(contents[:-1] + bytes([contents[-1] ^ 1]))
                job.kill(1)
                job.await_text("Training goes on: step 11 ")
                assert "damaged" not in job.text()
            before = "(?s)Training goes on.*" if is_disturbed else ""
            job.await_text(before + r"global_step: ([3-9]\d|\d{3,}),")
            job.process.terminate()
            assert job.wait(60) == 128 + signal.SIGTERM, job.output()
        found[name] = dict(losses(output))
    for step in range(1, 31):
        assert found["disturbed"][step] == found["undisturbed"][step], step


@pytest.mark.slow
def test_a_rank_that_is_stopped_is_named_before_the_ranks_form_anew(tmp_path: Path) -> None:
    config = write_run(tmp_path, sharding="stage1", distributed_timeout=20)
    expected = undisturbed(config, tmp_path, 2)
    with Launched(config, processes=2, log_dir=tmp_path / "log") as job:
        job.await_text("global_step: 7,")
        os.kill(job.processes()[0], signal.SIGSTOP)
        job.await_text("Training goes on")
        assert job.wait() == 0, job.output()
    named = r"The job stands still: rank 0 on 127.0.0.1, whose process is stopped \(SIGSTOP\?\)"
    assert re.search(f"launch: {named}.*: the ranks form anew", job.text()), job.text()
    assert re.search(named, events(tmp_path / "out", "restart")[0]["message"])
    assert (tmp_path / "out" / "stacks" / "rank-0.txt").read_text()
    assert losses(tmp_path / "out") == expected


def test_an_error_in_the_config_is_said_once_and_not_tried_again(tmp_path: Path) -> None:
    config = write_run(tmp_path, learning_rat=1)
    with Launched(config, processes=2, log_dir=tmp_path / "log") as job:
        assert job.wait() == 1
        assert "Rank 0 is" not in job.text(), "found before any process is started"
        assert len(re.findall("learning_rat\\b", job.text())) == 1


def test_an_error_that_only_the_ranks_find_is_not_tried_again(tmp_path: Path) -> None:
    config = write_run(tmp_path)
    for file in (tmp_path / "data").iterdir():
        file.unlink()
    with Launched(config, processes=2, log_dir=tmp_path / "log") as job:
        assert job.wait() == 1, job.output()
    assert "restart" not in job.text()
    assert len(re.findall("^error: ", job.text(), re.MULTILINE)) == 1, job.text()


def test_too_many_restarts_end_the_job(tmp_path: Path) -> None:
    config = write_run(tmp_path, max_restarts=1, max_steps=10_000, save_strategy="no")
    with Launched(config, processes=2, log_dir=tmp_path / "log") as job:
        job.await_text("global_step: 2,")
        job.kill(1)
        job.await_text("Training goes on: step 1")
        job.kill(1)
        assert job.wait(60) == 128 + signal.SIGKILL, job.output()
    assert re.search(r"error: Rank 1 .*was killed by SIGKILL, and 1 restarts", job.text())
    for process in job.processes().values():
        assert not Path(f"/proc/{process}").exists()


def test_a_signal_saves_and_ends_the_job(tmp_path: Path) -> None:
    config = write_run(tmp_path, max_steps=10_000, save_strategy="no")
    with Launched(config, processes=2, log_dir=tmp_path / "log") as job:
        job.await_text("global_step: 2,")
        job.process.terminate()
        assert job.wait(60) == 128 + signal.SIGTERM, job.output()
    assert "SIGTERM received" in job.text()
    assert re.search(r"Saved .*/checkpoint-\d+", job.text())


@pytest.mark.slow
def test_restarts_leave_nothing_behind(tmp_path: Path) -> None:
    """Rank 0 lives through all restarts."""
    config = write_run(tmp_path, max_steps=10_000, max_restarts=100, save_strategy="no")
    with Launched(config, processes=2, log_dir=tmp_path / "log") as job:
        sizes = []
        for restart in range(21):
            job.await_text("Training goes on" if restart else "global_step: 1,", max(1, restart))
            process = Path(f"/proc/{job.processes()[0]}")
            pages = int((process / "statm").read_text().split()[1])
            counts = (len(list((process / part).iterdir())) for part in ("fd", "task"))
            sizes.append((pages * 4 // 1024, *counts))
            job.await_text("global_step: 2,", restart + 1)
            job.kill(1)
        print(sizes)
        assert re.findall("Rank 0 is process", job.text()) == ["Rank 0 is process"]
    megabytes, descriptors, threads = zip(*sizes, strict=True)
    assert max(megabytes) - megabytes[0] < 80
    assert max(descriptors) < 300
    assert max(threads) < 100
