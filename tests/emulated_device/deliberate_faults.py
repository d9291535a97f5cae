"""Programs with one fault each, which a GPU's users would meet as wrong numbers or a hang.

Usage: deliberate_faults.py FOLDER [FAULT ...]. Each program is run with its fault and without, on
as many processes as it needs, which are forked from this one. FOLDER/results.json has the results.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import paddle
import paddle.distributed as dist

from llm_pretrain.parallel.comm import collectives
from tests.launching import free_port

PATIENCE_SECONDS = 60
"""Until a program counts as hung: many times the device's own time-out."""

PROCESSES: dict[str, int] = {}
_PROGRAMS: dict[str, Callable[[bool], None]] = {}


def fault(processes: int) -> Callable[[Callable[[bool], None]], Callable[[bool], None]]:
    def keep(program: Callable[[bool], None]) -> Callable[[bool], None]:
        PROCESSES[program.__name__] = processes
        _PROGRAMS[program.__name__] = program
        return program

    return keep


def numbers(size: int = 1000) -> paddle.Tensor:
    return paddle.to_tensor(np.arange(size, dtype=np.float32) + dist.get_rank())


def other() -> int:
    return 1 - dist.get_rank()


def formed(group: collectives.Group) -> collectives.Group:
    """A group whose communicators are formed, which all ranks have to do at once."""
    collectives.all_reduce(numbers(), group)
    for sender in range(2):
        tensor = numbers()
        if dist.get_rank() == sender:
            collectives.start_send(tensor, other(), group).wait()
        else:
            collectives.start_receive(tensor, sender, group).wait()
    return group


@fault(1)
def host_access(is_faulty: bool) -> None:
    """The host reads an address of the device."""
    tensor = paddle.ones([4])
    bytes_there = tensor if is_faulty else tensor.numpy()
    address = bytes_there.data_ptr() if is_faulty else bytes_there.ctypes.data
    assert ctypes.c_float.from_address(address).value == 1


@fault(1)
def use_after_free(is_faulty: bool) -> None:
    """A view of memory that another tensor has given back."""
    whole = numbers(100)
    size, address = whole.numel().item() * 4, whole.data_ptr()
    if is_faulty:
        del whole
    _copy_from(address, size)


@fault(1)
def out_of_bounds(is_faulty: bool) -> None:
    """More bytes than a tensor has."""
    whole = numbers(96)
    _copy_from(whole.data_ptr(), 384 + 4 * is_faulty)


def _copy_from(address: int, size: int) -> None:
    """Let the device copy to the host, as an operator of one's own would."""
    plugin = ctypes.CDLL(str(Path(os.environ["CUSTOM_DEVICE_ROOT"]) / "libemulated.so"))
    target = ctypes.create_string_buffer(size)
    plugin.emulated_device_read(target, ctypes.c_void_p(address), ctypes.c_size_t(size))


@fault(1)
def uninitialised_memory(is_faulty: bool) -> None:
    made = paddle.empty([100]) if is_faulty else paddle.zeros([100])
    total = made.sum().item()
    assert total == 0, f"the sum is {total}"


@fault(1)
def missing_kernel(is_faulty: bool) -> None:
    """An operator that the device lacks."""
    operator = paddle.nn.functional.hardshrink if is_faulty else paddle.nn.functional.relu
    assert operator(paddle.ones([4])).sum().item() == 4


@fault(2)
def reduction_not_waited_for(is_faulty: bool) -> None:
    tensor = numbers()
    task = collectives.start_all_reduce(tensor, dist.get_group())
    if not is_faulty:
        task.wait()
    doubled = tensor * 2
    assert doubled[0].item() == 2
    task.wait()


@fault(2)
def gathering_not_waited_for(is_faulty: bool) -> None:
    whole, part = paddle.empty([2000]), numbers()
    task = collectives.all_gather_into(whole, part, dist.get_group(), asynchronous=True)
    if not is_faulty:
        task.wait()
    assert whole.sum().item() == 1000 * 999 + 1000
    task.wait()


@fault(2)
def scattering_not_waited_for(is_faulty: bool) -> None:
    whole, part = numbers(), paddle.empty([500])
    task = collectives.reduce_scatter(part, whole, dist.get_group(), asynchronous=True)
    if not is_faulty:
        task.wait()
    assert part[0].item() == 1000 * dist.get_rank() + 1
    task.wait()


@fault(2)
def result_read_too_early(is_faulty: bool) -> None:
    """By the host, which copies the result while it is made."""
    tensor = numbers()
    task = collectives.start_all_reduce(tensor, dist.get_group())
    if not is_faulty:
        task.wait()
    assert tensor.numpy()[0] == 1
    task.wait()


@fault(2)
def send_not_waited_for(is_faulty: bool) -> None:
    """The sent tensor is written while it is read."""
    tensor = numbers()
    if dist.get_rank() == 0:
        task = collectives.start_send(tensor, 1, dist.get_group())
        if not is_faulty:
            task.wait()
        tensor.zero_()
        task.wait()
    else:
        assert collectives.start_receive(tensor, 0, dist.get_group()).wait()[0].item() == 0
    paddle.device.synchronize()


@fault(2)
def sent_tensor_not_held(is_faulty: bool) -> None:
    if dist.get_rank() == 0:
        tensor = numbers()
        task = collectives.start_send(tensor, 1, dist.get_group())
        if is_faulty:
            del tensor, task
        else:
            task.wait()
    else:
        assert collectives.start_receive(numbers(), 0, dist.get_group()).wait()[0].item() == 0
    paddle.device.synchronize()


@fault(2)
def one_group_for_both_directions(is_faulty: bool) -> None:
    """Each has a message under way that the other takes only after its own was taken."""
    first = formed(dist.new_group([0, 1]))
    second = first if is_faulty else formed(dist.new_group([0, 1]))
    groups = (first, second) if dist.get_rank() == 0 else (second, first)
    sent, received = numbers(), numbers()
    task = collectives.start_send(sent, other(), groups[0])
    collectives.start_receive(received, other(), groups[1]).wait()
    task.wait()
    assert received[0].item() == other()


@fault(2)
def send_before_receive(is_faulty: bool) -> None:
    """Both send first, and wait until they have sent."""
    sent, received = numbers(), numbers()

    def send() -> None:
        collectives.start_send(sent, other(), dist.get_group()).wait()

    def receive() -> None:
        collectives.start_receive(received, other(), dist.get_group()).wait()

    is_first = is_faulty or dist.get_rank() == 0
    for step in (send, receive) if is_first else (receive, send):
        step()
    assert received[0].item() == other()


@fault(2)
def cpu_tensor_in_a_collective(is_faulty: bool) -> None:
    tensor = numbers()
    if is_faulty:
        tensor = tensor.cpu()
    collectives.all_reduce(tensor, dist.get_group())
    assert tensor.numpy()[0] == 1


@fault(2)
def another_order(is_faulty: bool) -> None:
    """Ranks that enter collectives in another order."""
    tensor, whole = numbers(), numbers()
    steps = [
        lambda: collectives.all_reduce(tensor, dist.get_group()),
        lambda: collectives.broadcast(whole, 0, dist.get_group()),
    ]
    if is_faulty and dist.get_rank() == 1:
        steps.reverse()
    for step in steps:
        step()
    assert tensor[0].item() == 1
    assert whole[0].item() == 0


@fault(2)
def another_size(is_faulty: bool) -> None:
    tensor = numbers(1000 + (dist.get_rank() if is_faulty else 0))
    collectives.all_reduce(tensor, dist.get_group())
    assert tensor[0].item() == 1


@fault(2)
def another_type(is_faulty: bool) -> None:
    tensor = numbers()
    if is_faulty and dist.get_rank() == 1:
        tensor = tensor.astype("int32")
    collectives.all_reduce(tensor, dist.get_group())
    assert tensor[0].item() == 1


@fault(2)
def a_rank_that_does_not_come(is_faulty: bool) -> None:
    tensor, group = numbers(), formed(dist.get_group())
    if is_faulty and dist.get_rank() == 1:
        collectives.start_receive(tensor, 0, group).wait()
    else:
        collectives.all_reduce(tensor, group)
    assert tensor[0].item() == 1


def _begin(name: str, rank: int, port: int, is_faulty: bool, log: Path) -> int:
    """Fork one process of a program; its number."""
    process = os.fork()
    if process:
        return process
    with log.open("w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    endpoints = [f"127.0.0.1:{port + number}" for number in range(PROCESSES[name])]
    os.environ |= {
        "PADDLE_TRAINER_ID": str(rank),
        "PADDLE_TRAINERS_NUM": str(len(endpoints)),
        "PADDLE_TRAINER_ENDPOINTS": ",".join(endpoints),
        "PADDLE_CURRENT_ENDPOINT": endpoints[rank],
        # As Paddle's launcher does.
        "PADDLE_DISTRI_BACKEND": "xccl",
        "FLAGS_selected_emulateds": str(rank),
    }
    paddle.set_device("emulated")
    if PROCESSES[name] > 1:
        dist.init_parallel_env()
    _PROGRAMS[name](is_faulty)
    paddle.device.synchronize()
    sys.exit()


def run(name: str, is_faulty: bool, folder: Path) -> dict[str, object]:
    """The exit statuses and the output of a program, None for a process that hung."""
    kind = "fault" if is_faulty else "control"
    logs = [folder / f"{name}-{kind}-{rank}.txt" for rank in range(PROCESSES[name])]
    port = free_port()
    left = {_begin(name, rank, port, is_faulty, log): rank for rank, log in enumerate(logs)}
    statuses: list[int | None] = [None] * len(logs)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while left and time.monotonic() < deadline:
        process, status = os.waitpid(-1, os.WNOHANG)
        if process:
            statuses[left.pop(process)] = os.waitstatus_to_exitcode(status)
            if status:  # what the others still wait for will not come
                deadline = min(deadline, time.monotonic() + 2)
        else:
            time.sleep(0.02)
    for process in left:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    output = "\n".join(log.read_text(errors="replace") for log in logs)
    return {"statuses": statuses, "output": output}


def main(folder: Path, names: list[str]) -> None:
    results = {
        name: {"fault": run(name, True, folder), "control": run(name, False, folder)}
        for name in names or PROCESSES
    }
    (folder / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
