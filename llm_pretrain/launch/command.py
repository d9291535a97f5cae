"""`llm-pretrain launch`: its options, and the loop that hears processes and signals."""

from __future__ import annotations

import argparse
import os
import selectors
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from llm_pretrain.config import (
    ConfigError,
    load_run_config,
    possible_sizes,
    split_command_line,
)
from llm_pretrain.launch.job import Job, Limits, say
from llm_pretrain.launch.links import Address, Hub, LinkError, Uplink
from llm_pretrain.launch.node import Node, Plan
from llm_pretrain.machine import launchers
from llm_pretrain.machine.terminal import Command, print_error
from llm_pretrain.monitor.alerts import Alerts

PORT = 8476
"""Where the launchers of several machines meet on the first one."""
_TICK_SECONDS = 0.2
_SHORT_TICK_SECONDS = 0.02
_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_DESCRIPTION = (
    "Start the processes of a job and keep it alive: a rank that dies is replaced while the other "
    "processes stay, and training goes on from the last checkpoint. What follows the options goes "
    "to `llm-pretrain train`."
)


def main(arguments: Sequence[str]) -> int:
    """Run a job; its exit status."""
    options = _parse(arguments)
    try:
        run = load_run_config(*split_command_line(options.train))
        sizes = possible_sizes(run, options.nproc * options.nnodes)
        name, _, port = options.master.partition(":")
        master = launchers.resolved(name), int(port or PORT)
        host = launchers.own_address_towards(master[0])
    except (ConfigError, launchers.LaunchError) as error:
        for problem in error.problems if isinstance(error, ConfigError) else [str(error)]:
            print_error(problem)
        return 1
    plan = Plan(
        processes=options.nproc,
        nodes=options.nnodes,
        node_rank=options.node_rank,
        host=host,
        log_dir=options.log_dir,
        spares=options.spares,
        arguments=options.train,
        link_seconds=run.training.distributed_timeout / 2,
    )
    limits = Limits(run.training.max_restarts, run.training.restart_window)
    try:
        training = run.training
        alerts = Alerts(training.output_dir, training.alert_command, training.alert_url)
        _say_sizes(plan, sizes, training.min_processes)
        return keep_alive(plan, sizes, limits, master, alerts)
    except LinkError as error:
        print_error(str(error))
        return 1


def _say_sizes(plan: Plan, sizes: Sequence[int], least: int | None) -> None:
    if least is None or plan.node_rank > 0:
        return
    if plan.nodes == 1:
        say("min_processes is for jobs of several machines: on one it has no effect.")
    elif len(sizes) == 1:
        say(
            f"min_processes {least}: the job ends where a machine is lost, for no number from "
            f"{least} on has whole tensor and pipeline groups and divides the batches of a step "
            f"and of an evaluation as {plan.size} does."
        )
    else:
        smaller = " or ".join(map(str, sizes[1:]))
        say(f"Where a machine is lost, the job can go on with {smaller} processes (min_processes).")


def keep_alive(
    plan: Plan,
    sizes: Sequence[int],
    limits: Limits,
    master: Address,
    alerts: Alerts | None = None,
) -> int:
    """Run a job to its end; its exit status.

    Args:
        sizes: the numbers of processes that it may have, see `Job`.
        master: where the launchers of several nodes meet, on the first one.
        alerts: gets the failure that is the last which `limits` allow.

    Raises:
        LinkError: they don't.
    """
    for log in plan.log_dir.glob("workerlog.*"):
        log.unlink(missing_ok=True)
    with selectors.DefaultSelector() as selector, _signals(selector) as received:
        node = Node(plan, selector)
        job = Job(plan.processes, sizes, plan.host, limits, [node.hear])
        hub = None
        try:
            node.start()
            if plan.node_rank > 0:
                node.report = Uplink(plan, master, node, selector).report
            else:
                node.report = job.hear
            if plan.nodes > 1 and plan.node_rank == 0:
                job.copy_places[0] = plan.host, node.copies.port
                hub = Hub(plan, master, job, selector)
                job.tellers.append(hub.tell)
            while node.tick():
                if plan.node_rank == 0:
                    job.tick()
                    if job.epoch == 0 and (hub is None or hub.is_whole()):
                        job.begin()
                seconds = _SHORT_TICK_SECONDS if job.is_forming else _TICK_SECONDS
                for key, _ in selector.select(seconds):
                    key.data()
                while received:
                    number = received.pop(0)
                    node.pass_on(number)
                    job.signal(number)
        finally:
            node.close()
    if alerts is not None and job.gave_up:
        alerts.failure(job.gave_up)
    assert node.status is not None
    return node.status


@contextmanager
def _signals(selector: selectors.BaseSelector) -> Iterator[list[int]]:
    """Within the block signals don't end this process; those to pass on are listed."""
    received: list[int] = []
    reader, writer = socket.socketpair()
    for end in (reader, writer):
        end.setblocking(False)
    numbers = (*_PASSED_ON, signal.SIGCHLD)
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)

    def hear() -> None:
        received.extend(number for number in reader.recv(4096) if number in _PASSED_ON)

    selector.register(reader, selectors.EVENT_READ, hear)
    try:
        yield received
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in before.items():
            signal.signal(number, handler)
        reader.close()
        writer.close()


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Command("launch", _DESCRIPTION, allow_abbrev=False)
    parser.add_argument("--nproc", type=int, default=_devices(), help="processes on each machine")
    parser.add_argument("--nnodes", type=int, default=1, help="machines, each with its launcher")
    parser.add_argument("--node_rank", type=int, default=0, help="this machine's number, from 0")
    parser.add_argument(
        "--master",
        default="127.0.0.1",
        metavar="HOST[:PORT]",
        help=f"machine 0, and a port there where the launchers meet (default {PORT})",
    )
    parser.add_argument(
        "--spares",
        type=int,
        default=1,
        help="processes that wait, with all imported, to replace one that dies (default 1)",
    )
    parser.add_argument(
        "--log_dir",
        type=Path,
        default=Path("log"),
        help="folder of the output of all ranks but the first (default log)",
    )
    parser.add_argument("train", nargs=argparse.REMAINDER, metavar="CONFIG [--key value …]")
    options = parser.parse_args(arguments)
    if options.nproc < 1 or options.spares < 0:
        parser.error("--nproc is at least 1, and --spares at least 0")
    if not 0 <= options.node_rank < options.nnodes:
        parser.error(
            f"--node_rank is {options.node_rank} and --nnodes {options.nnodes}; "
            "a rank is 0 to NNODES - 1"
        )
    port = options.master.partition(":")[2]
    if port and not port.isdigit():
        parser.error(f"--master: {port!r} is no port")
    return options


def _devices() -> int:
    """The GPUs that processes started here would see; 1 without any."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible:
        return len(visible.split(","))
    return len(list(Path("/dev").glob("nvidia[0-9]*"))) or 1
