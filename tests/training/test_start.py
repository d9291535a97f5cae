"""How a job starts: by any launcher, alone in its folder, in time, and without noise."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from llm_pretrain.cli.check import main as check
from llm_pretrain.config import ConfigError
from llm_pretrain.training.folders import lock_problems, locked_output
from tests.launching import ROOT, RUN_PRETRAIN, Job, free_port, logged, run_job
from tests.small_runs import small_config, write_config, write_data, write_model

NOISE = re.compile(r"ccache|FLAGS|strategy|LAUNCH INFO|OMP_NUM_THREADS|UserWarning")


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes of Paddle's launcher write."""
    folder = tmp_path_factory.mktemp("start")
    contents = small_config(
        write_model(folder / "model"),
        write_data(folder / "data"),
        folder / "out",
        max_steps=3,
        tensor_parallel_degree=2,
    )
    config = write_config(folder / "config.json", contents)
    run_job(RUN_PRETRAIN, config, processes=2, log_dir=folder / "log")
    return folder


def test_a_worker_says_nothing_of_paddle(two_processes: Path) -> None:
    for log in sorted((two_processes / "log").glob("workerlog.*")):
        assert NOISE.findall(log.read_text()) == []
    assert (two_processes / "log" / "workerlog.1").read_text() == ""


@pytest.mark.parametrize("launcher", ["torchrun", "srun", "mpirun"])
def test_another_launchers_processes_train_as_paddles_do(
    two_processes: Path, tmp_path: Path, launcher: str
) -> None:
    port = str(free_port())

    def variables(rank: str) -> dict[str, str]:
        return {
            "torchrun": {
                "RANK": rank,
                "WORLD_SIZE": "2",
                "LOCAL_RANK": rank,
                "LOCAL_WORLD_SIZE": "2",
                "MASTER_ADDR": "localhost",
                "MASTER_PORT": port,
                "TORCHELASTIC_RUN_ID": "none",
            },
            "srun": {
                "SLURM_PROCID": rank,
                "SLURM_NTASKS": "2",
                "SLURM_LOCALID": rank,
                "SLURM_NODEID": "0",
                "SLURM_STEP_NODELIST": "localhost",
                "SLURM_STEP_ID": "0",
                "SLURM_JOB_ID": port,
            },
            "mpirun": {
                "OMPI_COMM_WORLD_RANK": rank,
                "OMPI_COMM_WORLD_SIZE": "2",
                "OMPI_COMM_WORLD_LOCAL_RANK": rank,
                "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
                "PMIX_NAMESPACE": port,
            },
        }[launcher]

    config = two_processes / "config.json"
    words = (RUN_PRETRAIN, config, "--output_dir", tmp_path / "out", "--print_config", "1")
    prefix: tuple[str, ...] = ("env", "--unset=OMP_NUM_THREADS")
    if launcher == "torchrun":
        # A parent that sets this for its processes and has it not itself.
        prefix += ("bash", "-c", 'OMP_NUM_THREADS=1 "$@"; exit $?', "bash")
    with ExitStack() as stack:
        jobs = [
            stack.enter_context(
                Job(
                    *words,
                    log_dir=tmp_path / f"log{rank}",
                    environment=variables(str(rank)),
                    prefix=prefix,
                )
            )
            for rank in range(2)
        ]
        for job in jobs:
            assert job.wait(120) == 0, job.output()
    assert "/ 2 processes]" in jobs[0].output(), "they share the machine's cores"
    assert jobs[1].output().strip() == ""
    found = [line["loss"] for line in logged(tmp_path / "out")]
    assert found == [line["loss"] for line in logged(two_processes / "out")]


def test_variables_that_are_left_over_are_named_in_time(
    two_processes: Path, tmp_path: Path
) -> None:
    words = (two_processes / "config.json", "--distributed_timeout", "10")
    with ExitStack() as stack:
        jobs = []
        for rank in range(2):
            # Ports of their own: these two are no job.
            endpoints = [f"127.0.0.1:{free_port()}" for _ in range(2)]
            left_over = {
                "PADDLE_TRAINERS_NUM": "2",
                "PADDLE_TRAINER_ID": str(rank),
                "PADDLE_TRAINER_ENDPOINTS": ",".join(endpoints),
                "PADDLE_CURRENT_ENDPOINT": endpoints[rank],
            }
            log = tmp_path / f"log{rank}"
            job = Job(RUN_PRETRAIN, *words, log_dir=log, environment=left_over)
            jobs.append((stack.enter_context(job), left_over))
        for rank, (job, left_over) in enumerate(jobs):
            assert job.wait(60) == 1
            (line,) = job.output().splitlines()
            assert line.startswith(f"error: Rank {1 - rank} of 2 ")
            assert "unset PADDLE_TRAINER_ID PADDLE_TRAINERS_NUM" in line
            assert all(f"{name}={value}" in line for name, value in left_over.items())


def test_a_missing_process_ends_the_start_within_distributed_timeout(
    two_processes: Path, tmp_path: Path
) -> None:
    port = str(free_port())
    variables = {"WORLD_SIZE": "3", "LOCAL_WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1"}
    words = (two_processes / "config.json", "--distributed_timeout", "10")
    words += ("--tensor_parallel_degree", "1", "--output_dir", tmp_path / "out")
    with ExitStack() as stack:
        jobs = [
            stack.enter_context(
                Job(
                    *(RUN_PRETRAIN, *words),
                    log_dir=tmp_path / f"log{rank}",
                    environment={
                        **variables,
                        "MASTER_PORT": port,
                        "RANK": str(rank),
                        "LOCAL_RANK": str(rank),
                    },
                )
            )
            for rank in (0, 2)
        ]
        for job in jobs:
            assert job.wait(60) == 1
            assert "error: Rank 1 of 3 has not started" in job.output()


def test_a_port_in_use_is_a_sentence(two_processes: Path, tmp_path: Path) -> None:
    with socket.create_server(("", 0)) as other:
        variables = {
            "RANK": "0",
            "WORLD_SIZE": "2",
            "LOCAL_RANK": "0",
            "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(other.getsockname()[1]),
        }
        config = two_processes / "config.json"
        with Job(RUN_PRETRAIN, config, log_dir=tmp_path, environment=variables) as job:
            assert job.wait(60) == 1
    (line,) = job.output().splitlines()
    assert "in use" in line
    assert "--master_port" in line


def test_a_second_job_in_one_folder_is_refused(
    two_processes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, output = two_processes / "config.json", tmp_path / "out"
    words = (config, "--output_dir", output, "--tensor_parallel_degree", "1")
    holder = f"process {os.getpid()} on {socket.gethostname()}"
    with locked_output(output, is_first_of_job=True):
        before = sorted(output.iterdir())
        with Job(RUN_PRETRAIN, *words, log_dir=tmp_path) as job:
            assert job.wait(60) == 1
        (line,) = job.output().splitlines()
        assert line.startswith(f"error: output_dir: {output} is in use by another job ({holder})")
        assert check([str(word) for word in words]) == 1
        assert holder in capsys.readouterr().err
        # One that came that far at the same moment.
        with (
            pytest.raises(ConfigError, match="in use by another job"),
            locked_output(output, is_first_of_job=True),
        ):
            pass
        # Another node of the same job, which shares the folder.
        with locked_output(output, is_first_of_job=False):
            pass
        assert sorted(output.iterdir()) == before
    assert lock_problems(output) == []


def test_the_lock_ends_with_its_process(tmp_path: Path) -> None:
    script = (
        "import sys, time\nfrom llm_pretrain.training.folders import locked_output\n"
        "with locked_output(sys.argv[1], is_first_of_job=True):\n"
        "    print('held', flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, tmp_path], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert f"process {holder.pid} on" in lock_problems(tmp_path)[0]
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    deadline = time.monotonic() + 10
    while lock_problems(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    with locked_output(tmp_path, is_first_of_job=True):
        pass
