"""One node's processes: its ranks and a spare, started, spoken with, and replaced."""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llm_pretrain.launch.copies import Copies
from llm_pretrain.launch.job import say
from llm_pretrain.launch.process import Process, how_it_died
from llm_pretrain.machine import SIGNAL_STATUS
from llm_pretrain.parallel.comm.channel import Channel
from llm_pretrain.parallel.comm.places import PLACE

_PATIENCE_SECONDS = 10.0
"""A process that has not left its epoch by then is killed, and its rank given to another."""
_GRACE_SECONDS = 5.0
"""When the job ends in an error, its ranks have this long to tell theirs."""
_SPARE_AFTER_SECONDS = 3.0
"""A spare is not started beside ranks that start."""
_MOST_SPARE_FAILURES = 3


@dataclass(frozen=True)
class Plan:
    """What a node is asked to run.

    Args:
        processes: on this node, as on each.
        host: the address that other nodes' ranks know this one by.
        arguments: of `llm-pretrain train`.
        link_seconds: without a sign of life of another machine after which it is gone.
        program: of a rank's process.
    """

    processes: int
    nodes: int
    node_rank: int
    host: str
    log_dir: Path
    spares: int
    arguments: Sequence[str]
    link_seconds: float
    program: Sequence[str] = (sys.executable, "-m", "llm_pretrain.launch.rank")

    @property
    def size(self) -> int:
        return self.processes * self.nodes


@dataclass
class Node:
    """The processes of this node."""

    plan: Plan
    selector: selectors.BaseSelector
    report: Callable[[Mapping[str, Any]], None] = lambda said: None
    """Tells the job's first launcher of a rank."""
    copies: Copies = field(init=False)
    processes: list[Process] = field(default_factory=list)
    status: int | None = None
    """The exit status of the job, once it is known."""
    _place: dict[str, Any] = field(default_factory=lambda: {"epoch": 0})
    _span: range = range(0)
    """The ranks of this node."""
    _has_said_ready: bool = False
    _begun_at: float = 0.0
    _has_stepped: bool = False
    _ended_at: float = 0.0
    _spare_failures: int = 0
    _is_stopping: bool = False

    def __post_init__(self) -> None:
        is_alone = self.plan.nodes == 1
        self.copies = Copies(self.plan.processes, self.selector, is_alone=is_alone)

    def start(self) -> None:
        """Start the processes; they import what they need while the nodes come together."""
        for _ in range(self.plan.processes):
            self._start()

    def hear(self, said: Mapping[str, Any]) -> None:
        """Do what the job's first launcher says."""
        if self.status is not None or said.get("node", self.plan.node_rank) != self.plan.node_rank:
            return
        if "begin" in said:
            self._begin(said)
        elif "saved" in said:
            self.copies.send()
        elif "end" in said:
            self.status, self._ended_at = int(said["end"]), time.monotonic()
            for process in self.processes:
                if process.rank is None:
                    process.popen.kill()
                else:
                    process.channel.send('{"end": 1}')

    def pass_on(self, number: int) -> None:
        """Send a signal to all ranks; there are no spares from here on."""
        self._is_stopping = True
        for process in self.processes:
            process.popen.send_signal(number if process.rank is not None else signal.SIGKILL)

    def tick(self) -> bool:
        """Do what is due; False when all is over."""
        self._reap()
        now = time.monotonic()
        if self.status is not None:
            if now - self._ended_at > _GRACE_SECONDS:
                self.close()
            return bool(self.processes)
        for process in self._ranks():
            is_late = process.is_ready and process.joined < self._place["epoch"]
            if is_late and now - process.told_at > _PATIENCE_SECONDS and not process.killed_at:
                process.killed_at = process.place().describe(now)
                process.popen.kill()
        self._keep_spare(now)
        return True

    def close(self) -> None:
        """Kill all processes, and give the memory of their state back."""
        for process in self.processes:
            process.popen.kill()
        self.copies.close()

    def _ranks(self) -> list[Process]:
        return [process for process in self.processes if process.rank is not None]

    def _spares(self) -> list[Process]:
        return [
            process
            for process in self.processes
            if process.rank is None and not process.is_superfluous
        ]

    def _begin(self, said: Mapping[str, Any]) -> None:
        self._place = {
            "epoch": said["begin"],
            **{name: said[name] for name in ("master", "began_at", "after", "size", "whole")},
            "nodes": len(said["spans"]),
        }
        places = {int(node): (host, port) for node, (host, port) in said["copies"].items()}
        self.copies.begin(said["token"], places, self.plan.node_rank)
        self._begun_at, self._has_stepped = time.monotonic(), False
        self._move(range(*said["spans"].get(str(self.plan.node_rank), (0, 0))))
        taken = {process.rank for process in self._ranks()}
        for rank in self._span:
            if rank not in taken:
                spares = sorted(self._spares(), key=lambda spare: not spare.is_ready)
                process = spares[0] if spares else self._start()
                process.rank = rank
                say(f"Rank {rank} is process {process.popen.pid}.")
        for process in self._ranks():
            if process.is_ready:
                self._tell_place(process)

    def _move(self, span: range) -> None:
        """Give this node's ranks their new numbers; processes that have none any more are killed,
        for they may be in the middle of a step."""
        for process in self._ranks():
            assert process.rank is not None
            place = process.rank - self._span.start
            process.rank = span[place] if place < len(span) else None
            if process.rank is None:
                process.is_superfluous = True
                process.popen.kill()
        self._span = span

    def _tell_place(self, process: Process) -> None:
        assert process.rank is not None
        process.told_at = time.monotonic()
        place = {
            **{name: self._place[name] for name in ("epoch", "began_at", "after", "whole")},
            "environment": self._environment(process.rank),
            "log": self._log(process.rank),
        }
        process.channel.send(json.dumps(place))

    def _environment(self, rank: int) -> dict[str, str]:
        """The variables that Paddle's launcher would set."""
        plan, local_rank, size = self.plan, rank - self._span.start, self._place["size"]
        # Where the others are is found out when they meet.
        endpoints = ",".join([f"{plan.host}:{_endpoint_port(other)}" for other in range(size)])
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        return {
            "PADDLE_MASTER": self._place["master"],
            "PADDLE_TRAINER_ID": str(rank),
            "PADDLE_TRAINERS_NUM": str(size),
            "PADDLE_CURRENT_ENDPOINT": f"{plan.host}:{_endpoint_port(rank)}",
            "PADDLE_TRAINER_ENDPOINTS": endpoints,
            "PADDLE_RANK_IN_NODE": str(local_rank),
            "PADDLE_LOCAL_RANK": str(local_rank),
            "PADDLE_LOCAL_SIZE": str(len(self._span)),
            "PADDLE_GLOBAL_RANK": str(rank),
            "PADDLE_GLOBAL_SIZE": str(size),
            "PADDLE_NNODES": str(self._place["nodes"]),
            "FLAGS_selected_gpus": str(local_rank % len(visible) if visible[0] else local_rank),
        }

    def _log(self, rank: int) -> str | None:
        """The file of a rank's output; None for the one that has the console."""
        if rank == self._span.start:
            return None
        return str(self.plan.log_dir.absolute() / f"workerlog.{rank - self._span.start}")

    def _start(self) -> Process:
        """Start a process that has no rank yet; what it says until then is in a file."""
        ours, theirs = socket.socketpair()
        places = os.memfd_create("llm_pretrain_place")
        os.ftruncate(places, PLACE.size)
        console = [os.dup(1), os.dup(2)]
        memories = *self.copies.own, *self.copies.kept
        descriptors = [theirs.fileno(), places, *console, *memories]
        self.plan.log_dir.mkdir(parents=True, exist_ok=True)
        numbers = ",".join(map(str, descriptors))
        command = [*self.plan.program, numbers, *self.plan.arguments]
        # Paddle would take these before the place that the launcher gives.
        others = ("MASTER_ADDR", "MASTER_PORT")
        environment = {name: value for name, value in os.environ.items() if name not in others}
        environment["PADDLE_LOCAL_SIZE"] = str(self.plan.processes)
        with theirs, (self.plan.log_dir / "workerlog.start").open("ab") as log:
            popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                pass_fds=descriptors,
            )
        for descriptor in console:
            os.close(descriptor)
        process = Process(popen, Channel(ours), places)
        self.processes.append(process)
        self.selector.register(ours, selectors.EVENT_READ, lambda: self._hear(process))
        return process

    def _keep_spare(self, now: float) -> None:
        is_calm = self._has_stepped or now - self._begun_at > _SPARE_AFTER_SECONDS
        is_formed = all(process.joined == self._place["epoch"] for process in self._ranks())
        missing = 0 if self._is_stopping else self.plan.spares - len(self._spares())
        is_formed = is_formed and bool(self._ranks())
        if missing > 0 and is_calm and is_formed and self._spare_failures < _MOST_SPARE_FAILURES:
            self._start()

    def _hear(self, process: Process) -> bool:
        """Take note of what a process says; whether there may be more."""
        try:
            lines = process.channel.receive()
        except BlockingIOError:
            return False
        except OSError:  # its end will be noticed as that of a child
            self._part_from(process)
            return False
        for line in lines:
            said = json.loads(line)
            if "ready" in said:
                process.is_ready = True
                if process.rank is not None:
                    self._tell_place(process)
            if "joined" in said:
                process.joined = said["joined"]
            if "failure" in said:
                process.failure = said["failure"]
            if "ended" in said:
                process.ended = said["ended"]
            if "stepped" in said:
                self._has_stepped = self._has_stepped or said["epoch"] == self._place["epoch"]
            if "loading" in said:
                process.is_ready = False
            if {"lost", "stuck", "began", "stepped", "saved"} & said.keys():
                self.report(said)
        if not self._has_said_ready and all(process.is_ready for process in self.processes):
            self._has_said_ready = True
            self.report({"ready": True})
        return True

    def _part_from(self, process: Process) -> None:
        if process.channel.connection.fileno() >= 0:
            self.selector.unregister(process.channel.connection)
            process.channel.connection.close()

    def _reap(self) -> None:
        """Take note of the processes that have ended."""
        for process in list(self.processes):
            status = process.popen.poll()
            if status is None:
                continue
            while process.channel.connection.fileno() >= 0 and self._hear(process):
                pass  # its last words
            self._part_from(process)
            os.close(process.places)
            self.processes.remove(process)
            if process.is_superfluous:
                continue
            if process.rank is None:
                self._spare_failures += 1
                if self.status is None and self._spare_failures == _MOST_SPARE_FAILURES:
                    say(f"There are no more spares: the last one {how_it_died(status)}.")
            elif process.ended is not None:
                self.report({"ended": process.ended, "rank": process.rank})
            else:
                self.report(
                    {
                        "died": process.rank,
                        "how": f"on {self.plan.host}, {process.killed_at}, did not leave its "
                        "epoch and was killed"
                        if process.killed_at
                        else f"(process {process.popen.pid}) {how_it_died(status)}",
                        "status": status if status >= 0 else SIGNAL_STATUS - status,
                        "failure": process.failure,
                        "counts": not process.killed_at,
                    }
                )


def _endpoint_port(rank: int) -> int:
    """A number that tells the endpoints of ranks apart; nobody listens there."""
    return 1024 + rank % 60_000
