"""The launcher with ranks that compute nothing: who is replaced, who stays, how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from llm_pretrain.launch.job import Job, Limits
from tests.launching import free_port

ROOT = Path(__file__).parents[2]
IDLE = Path(__file__).with_name("idle_rank.py")
SCRIPT = """
import sys
from pathlib import Path
from llm_pretrain.launch.command import keep_alive
from llm_pretrain.launch.job import Limits
from llm_pretrain.launch.node import Plan
from llm_pretrain.monitor.alerts import Alerts
folder, processes, restarts, fault, idle, nodes, node, port, *sizes = sys.argv[1:]
plan = Plan(int(processes), int(nodes), int(node), "127.0.0.1", Path(folder) / f"log-{node}", 1,
            [folder, fault], 150, program=(sys.executable, idle))
alerts = Alerts(folder, f"tee -a {folder}/events")
sizes = [plan.size, *map(int, sizes)]
sys.exit(keep_alive(plan, sizes, Limits(int(restarts), 3600), ("127.0.0.1", int(port)), alerts))
"""


class Idle:
    """A job of idle ranks in a folder."""

    def __init__(self, folder: Path, process: subprocess.Popen[str]) -> None:
        self.folder, self.process = folder, process

    def note(self, epoch: int, rank: int) -> list[str]:
        """Process, first step, meeting point and ranks in all, once that rank is in that epoch."""
        path = self.folder / f"{epoch}-{rank}"
        deadline = time.monotonic() + 60
        while not path.exists() or not path.read_text():
            assert time.monotonic() < deadline, f"{path}: {self.text()}"
            time.sleep(0.02)
        return path.read_text().split()

    def processes(self, epoch: int, count: int) -> list[int]:
        return [int(self.note(epoch, rank)[0]) for rank in range(count)]

    def await_text(self, text: str) -> None:
        deadline = time.monotonic() + 60
        while text not in self.text():
            assert time.monotonic() < deadline, self.text()
            time.sleep(0.02)

    def end(self, status: int = 0) -> int:
        (self.folder / "done").write_text(str(status))
        return self.process.wait(60)

    def text(self) -> str:
        return (self.folder / "console").read_text()


@contextmanager
def idle_job(
    folder: Path,
    *,
    processes: int,
    restarts: int = 10,
    fault: str = "none",
    nodes: int = 1,
    node: int = 0,
    port: int = 0,
    sizes: Sequence[int] = (),
) -> Iterator[Idle]:
    """`sizes`: the smaller numbers of processes that the job may have."""
    words = [folder, processes, restarts, fault, IDLE, nodes, node, port, *sizes]
    with (folder / "console").open("a") as console:
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *map(str, words)],
            stdout=console,
            stderr=console,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )
    try:
        yield Idle(folder, process)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def connected(port: int) -> socket.socket:
    deadline = time.monotonic() + 30
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port))
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_one_is_replaced_and_the_others_meet_it_elsewhere(tmp_path: Path) -> None:
    with idle_job(tmp_path, processes=3) as job:
        before = job.processes(1, 3)
        os.kill(before[1], signal.SIGKILL)
        after = job.processes(2, 3)
        assert [one == other for one, other in zip(before, after, strict=True)] == [
            True,
            False,
            True,
        ]
        first, second = job.note(1, 0), job.note(2, 0)
        assert (first[1], second[1]) == ("None", "0"), "the step at which the job has begun"
        assert first[2] != second[2]
        assert job.end() == 0
    assert re.search(r"Rank 1 \(process \d+\) was killed by SIGKILL.*restart 1 of 10", job.text())
    assert re.search(r"step 1 came \d\.\d s after the failure", job.text())


def test_all_may_die_at_once_and_one_after_another(tmp_path: Path) -> None:
    with idle_job(tmp_path, processes=2) as job:
        for process in job.processes(1, 2):
            os.kill(process, signal.SIGKILL)
        for epoch in (2, 3):
            os.kill(job.processes(epoch, 2)[0], signal.SIGKILL)
        assert len(set(job.processes(4, 2))) == 2
        assert job.end() == 0


def test_a_rank_that_does_not_leave_its_epoch_is_replaced(tmp_path: Path) -> None:
    with idle_job(tmp_path, processes=2, restarts=1, fault="deaf") as job:
        deaf, killed = job.processes(1, 2)
        os.kill(killed, signal.SIGKILL)
        assert job.processes(3, 2)[0] != deaf
        assert job.end() == 0
    named = "Rank 0 on 127.0.0.1, which waits for no other, for 1. s in step 2 at: the samples"
    assert re.search(f"{named}, did not leave its epoch and was killed", job.text()), job.text()


def test_a_process_that_loads_its_program_anew_keeps_its_number(tmp_path: Path) -> None:
    with idle_job(tmp_path, processes=2, fault="reload") as job:
        loads, killed = job.processes(1, 2)
        os.kill(killed, signal.SIGKILL)
        assert job.processes(2, 2)[0] == loads
        assert job.end() == 0


def test_a_lost_connection_is_a_restart_of_the_same_processes(tmp_path: Path) -> None:
    with idle_job(tmp_path, processes=2, fault="lost") as job:
        assert job.processes(1, 2) == job.processes(2, 2)
        assert job.end() == 0


def test_the_last_restart_but_one_ends_the_job(tmp_path: Path) -> None:
    with idle_job(tmp_path, processes=2, restarts=1) as job:
        for epoch in (1, 2):
            os.kill(job.processes(epoch, 2)[1], signal.SIGKILL)
        assert job.process.wait(60) == 128 + signal.SIGKILL
    assert "1 restarts within 3600 s are all" in job.text()
    event = json.loads((tmp_path / "events").read_text())
    assert event["event"] == "failure"
    assert "was killed by SIGKILL" in event["message"]


def test_an_error_that_a_rank_ends_with_ends_the_job(tmp_path: Path) -> None:
    with idle_job(tmp_path, processes=2) as job:
        job.processes(1, 2)
        assert job.end(1) == 1
    assert "restart" not in job.text()


def test_the_end_of_the_launcher_is_that_of_its_ranks(tmp_path: Path) -> None:
    with idle_job(tmp_path, processes=2) as job:
        processes = job.processes(1, 2)
        job.process.kill()
        deadline = time.monotonic() + 30
        while any(Path(f"/proc/{process}").exists() for process in processes):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_ranks_of_several_nodes_form_anew_wherever_one_dies(tmp_path: Path) -> None:
    place = {"processes": 2, "nodes": 2, "port": free_port()}
    with idle_job(tmp_path, node=1, **place) as second, idle_job(tmp_path, **place) as first:
        before = first.processes(1, 4)
        os.kill(before[3], signal.SIGKILL)
        between = first.processes(2, 4)
        assert [one == other for one, other in zip(before, between, strict=True)] == [
            True,
            True,
            True,
            False,
        ]
        os.kill(between[0], signal.SIGKILL)
        after = first.processes(3, 4)
        assert after[1:] == between[1:]
        assert first.end() == 0
        assert second.process.wait(60) == 0


def test_a_lost_node_ends_the_job_on_all(tmp_path: Path) -> None:
    place = {"processes": 1, "nodes": 3, "port": free_port()}
    with (
        idle_job(tmp_path, **place) as first,
        idle_job(tmp_path, node=1, **place) as second,
        idle_job(tmp_path, node=2, **place) as third,
    ):
        first.processes(1, 3)
        third.process.kill()
        assert first.process.wait(60) == 1
        assert second.process.wait(60) == 1
    assert "The launcher of machine 2 is gone" in first.text()


def test_a_job_goes_on_without_a_lost_node_and_grows_when_it_is_back(tmp_path: Path) -> None:
    place = {"processes": 2, "nodes": 3, "port": free_port(), "sizes": (4, 3)}
    with (
        idle_job(tmp_path, **place) as first,
        idle_job(tmp_path, node=2, **place) as third,
    ):
        with idle_job(tmp_path, node=1, **place) as second:
            before = first.processes(1, 6)
            second.process.kill()
            between = first.processes(2, 4)
        assert between == [*before[:2], *before[4:]], "the third node's ranks are now 2 and 3"
        assert {first.note(2, rank)[3] for rank in range(4)} == {"4"}
        with idle_job(tmp_path, node=1, **place) as second:
            first.await_text("machine 1 is back: from the next checkpoint on the job has 6 of 6")
            assert not (tmp_path / "3-0").exists(), "the steps since the checkpoint would be lost"
            (tmp_path / "saved").touch()
            after = first.processes(3, 6)
            assert [*after[:2], *after[4:]] == between
            assert first.end() == 0
            assert [job.process.wait(60) for job in (second, third)] == [0, 0]
    assert "The launcher of machine 1 is gone: the ranks form anew" in first.text()
    assert "goes on with 4 of 6 processes" in first.text()
    assert "goes on with 6 of 6 processes" in first.text()


def test_a_machine_that_is_gone_again_before_it_takes_part_changes_nothing() -> None:
    told: list[dict[str, object]] = []
    tellers = [lambda said: told.append(dict(said))]
    job = Job(1, [2, 1], "127.0.0.1", Limits(restarts=9, seconds=3600), tellers)
    job.begin()
    job.lose(1)
    job.begin()
    job.hear({"ready": True}, 1)
    job.lose(1)
    job.hear({"saved": 5, "epoch": 2})
    assert not job.is_forming
    job.hear({"ready": True}, 1)
    job.hear({"saved": 10, "epoch": 2})
    assert job.is_forming
    job.begin()
    assert [said["size"] for said in told] == [2, 1, 2]


def test_processes_that_a_smaller_job_has_no_place_for_are_ended(tmp_path: Path) -> None:
    place = {"processes": 2, "nodes": 2, "port": free_port(), "sizes": (1,)}
    with idle_job(tmp_path, **place) as first:
        with idle_job(tmp_path, node=1, **place) as second:
            before = first.processes(1, 4)
            second.process.kill()
            assert first.note(2, 0)[0] == str(before[0])
        deadline = time.monotonic() + 30
        while Path(f"/proc/{before[1]}").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert first.end() == 0


def test_too_few_processes_for_any_size_end_the_job(tmp_path: Path) -> None:
    place = {"processes": 1, "nodes": 3, "port": free_port(), "sizes": (2,)}
    with (
        idle_job(tmp_path, **place) as first,
        idle_job(tmp_path, node=1, **place) as second,
        idle_job(tmp_path, node=2, **place) as third,
    ):
        first.processes(1, 3)
        third.process.kill()
        first.processes(2, 2)
        second.process.kill()
        assert first.process.wait(60) == 1
    assert "can go on with 2 processes (min_processes) and no fewer" in first.text()


def test_a_machine_that_uses_up_the_restarts_is_let_go(tmp_path: Path) -> None:
    place = {"processes": 2, "nodes": 2, "port": free_port(), "restarts": 2, "sizes": (2,)}
    with idle_job(tmp_path, **place) as first, idle_job(tmp_path, node=1, **place) as second:
        for epoch in (1, 2, 3):
            os.kill(first.processes(epoch, 4)[3], signal.SIGKILL)
        assert second.process.wait(60) == 128 + signal.SIGKILL
        assert first.processes(4, 2) == first.processes(1, 2)
        assert first.end() == 0
    assert "Most of them were for machine 1: the job goes on without it" in first.text()


def test_a_first_machine_that_uses_up_the_restarts_ends_the_job(tmp_path: Path) -> None:
    place = {"processes": 1, "nodes": 2, "port": free_port(), "restarts": 1, "sizes": (1,)}
    with idle_job(tmp_path, **place) as first, idle_job(tmp_path, node=1, **place):
        for epoch in (1, 2):
            os.kill(first.processes(epoch, 2)[0], signal.SIGKILL)
        assert first.process.wait(60) == 128 + signal.SIGKILL


def test_strangers_are_not_heard(tmp_path: Path) -> None:
    place = {"processes": 1, "nodes": 2, "port": free_port()}
    with idle_job(tmp_path, **place) as first:
        for line in (b"", b"no JSON\n", b"{}\n", b"[1]\n", b'{"node": 1, "job": 1}\n', b"x" * 9999):
            with connected(place["port"]) as stranger:
                stranger.sendall(line)
        with idle_job(tmp_path, node=1, **place) as second:
            first.processes(1, 2)
            assert first.end() == 0
            assert second.process.wait(60) == 0


def test_restarts_are_counted_within_the_window() -> None:
    told: list[dict[str, object]] = []
    job = Job(
        2,
        [2],
        "127.0.0.1",
        Limits(restarts=1, seconds=0.2),
        [lambda said: told.append(dict(said))],
    )
    death = {"died": 1, "how": "died", "status": 1, "failure": "", "counts": True}
    job.begin()
    for _ in range(3):
        job.hear(death)
        time.sleep(0.25)
        job.tick()
    assert [said.get("begin") for said in told] == [1, 2, 3, 4]
    job.hear(death)
    job.hear(death)
    assert told[-1] == {"end": 1}


def test_what_ended_an_epoch_is_told_in_the_next_ones_until_training_goes_on() -> None:
    told: list[dict[str, object]] = []
    nodes = [lambda said: told.append(dict(said))]
    job = Job(2, [2], "127.0.0.1", Limits(restarts=9, seconds=3600), nodes)
    death = {"died": 1, "how": "died", "status": 1, "failure": "", "counts": True}
    job.begin()
    job.hear({"stuck": "rank 0", "epoch": 1})
    job.hear({"lost": 1})
    deadline = time.monotonic() + 10
    while job.epoch < 2 and time.monotonic() < deadline:
        job.tick()
        time.sleep(0.05)
    job.hear(death)
    job.begin()
    job.hear({"stepped": 1, "epoch": 3})
    job.hear(death)
    job.begin()
    assert [said["after"] for said in told] == [
        "",
        "The job stands still: rank 0.",
        "The job stands still: rank 0. Rank 1 died.",
        "Rank 1 died.",
    ]


def test_a_death_that_its_neighbours_tell_of_first_is_one_restart() -> None:
    told: list[dict[str, object]] = []
    nodes = [lambda said: told.append(dict(said))]
    job = Job(2, [2], "127.0.0.1", Limits(restarts=1, seconds=3600), nodes)
    job.begin()
    job.hear({"lost": 1})
    job.hear({"died": 1, "how": "died", "status": 1, "failure": "", "counts": True})
    for _ in range(15):
        time.sleep(0.1)
        job.tick()
    assert [said.get("begin") for said in told] == [1, 2]


def test_ranks_that_die_together_are_one_restart() -> None:
    told: list[dict[str, object]] = []
    nodes = [lambda said: told.append(dict(said))]
    job = Job(4, [4], "127.0.0.1", Limits(restarts=1, seconds=3600), nodes)
    death = {"how": "was killed", "status": 137, "failure": "", "counts": True}
    job.begin()
    job.hear({"stuck": "rank 0", "epoch": 1})
    for rank in range(3):
        job.hear({**death, "died": rank})
    job.begin()
    job.hear({**death, "died": 3})  # its machine was a moment late
    assert [said.get("begin") for said in told] == [1, 2]
    assert str(told[1]["after"]).startswith("The job stands still: rank 0. Rank 1 was killed.")
    job.hear({**death, "died": 3})
    assert told[-1] == {"end": 137}


def test_a_machine_of_another_job_is_refused(tmp_path: Path) -> None:
    port = free_port()
    other = tmp_path / "other"
    other.mkdir()
    with (
        idle_job(tmp_path, processes=2, nodes=2, port=port),
        idle_job(other, processes=3, nodes=2, node=1, port=port) as stranger,
    ):
        assert stranger.process.wait(60) == 1
    assert "the job that meets there is of 2 machines × 2 processes" in stranger.text()
