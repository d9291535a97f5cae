"""Short programs on the emulated device end well, though Paddle takes itself apart beneath them.

Usage: python -m tests.emulated_device.test_clean_end COUNT [FOLDER], for as many as one likes:
prints how many processes ended with each status. What those that fail have written stays in FOLDER
(output/emulated_device/ends).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.emulated_device.compile_plugin import KEPT, environment
from tests.launching import ROOT, free_port

PATIENCE_SECONDS = 600


def program() -> None:
    """A few kernels and all-reduces of each process, the last of which nobody waits for."""
    import paddle
    import paddle.distributed as dist

    paddle.set_device("emulated")
    dist.init_parallel_env()
    group = dist.new_group([0, 1])
    x = paddle.randn([64, 64])
    x.stop_gradient = False
    for _ in range(3):
        y = paddle.matmul(x, x).astype("bfloat16").sum()
        y.backward()
        task = dist.all_reduce(x.grad, group=group, sync_op=False)
        task.wait()
    dist.all_reduce(paddle.ones([1 << 16]), group=group)


def run(number: int, folder: Path, device: dict[str, str]) -> list[int]:
    """The exit statuses of one program's processes."""
    port = free_port()
    endpoints = [f"127.0.0.1:{port}", f"127.0.0.1:{free_port()}"]
    processes = []
    for rank in range(2):
        variables = {
            **os.environ,
            **device,
            "EMULATED_DEVICE_SEED": str(number),
            "PYTHONPATH": str(ROOT),
            "PADDLE_TRAINER_ID": str(rank),
            "PADDLE_TRAINERS_NUM": "2",
            "PADDLE_TRAINER_ENDPOINTS": ",".join(endpoints),
            "PADDLE_CURRENT_ENDPOINT": endpoints[rank],
            "PADDLE_DISTRI_BACKEND": "xccl",
            "FLAGS_selected_emulateds": str(rank),
        }
        with (folder / f"{number}-{rank}.txt").open("w") as log:
            command = [sys.executable, __file__, "program"]
            processes.append(subprocess.Popen(command, env=variables, stdout=log, stderr=log))
    statuses = []
    for process in processes:
        try:
            statuses.append(process.wait(PATIENCE_SECONDS))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            statuses.append(-signal.SIGKILL)
    if not any(statuses):
        for rank in range(2):
            (folder / f"{number}-{rank}.txt").unlink()
    return statuses


def main(count: int, folder: Path) -> Counter[int]:
    """How many of the processes ended with each status."""
    folder.mkdir(parents=True, exist_ok=True)
    device = environment(timeout_s=PATIENCE_SECONDS)
    found: Counter[int] = Counter()
    for number in range(count):
        found.update(run(number, folder, device))
    return found


@pytest.mark.slow
@pytest.mark.usefixtures("device_environment")
def test_programs_end_well(tmp_path: Path) -> None:
    assert main(3, tmp_path) == {0: 6}


if __name__ == "__main__":
    if sys.argv[1] == "program":
        program()
    else:
        statuses = main(int(sys.argv[1]), Path((sys.argv[2:] or [KEPT / "ends"])[0]))
        print(dict(statuses))
        sys.exit(set(statuses) != {0})
