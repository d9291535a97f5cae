"""The choices that machine.py makes, from made-up machines and real child processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llm_pretrain import machine

ROOT = Path(__file__).parents[2]
TORCHRUN = {
    "RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RUN_ID": "none",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}


def cpuinfo(vendor: str, cores: int, threads_per_core: int = 1, flags: str = "sse2 avx2") -> str:
    blocks = [
        f"processor\t: {core + cores * thread}\nvendor_id\t: {vendor}\nphysical id\t: 0\n"
        f"core id\t\t: {core}\nflags\t\t: fpu {flags}\n"
        for thread in range(threads_per_core)
        for core in range(cores)
    ]
    return "\n".join(blocks)


def test_amd_takes_the_avx2_path() -> None:
    choice = machine.choose_mkl_path({}, machine.parse_cpuinfo(cpuinfo("AuthenticAMD", 2)))
    assert choice.value == "5"


@pytest.mark.parametrize(
    "text",
    [
        cpuinfo("GenuineIntel", 2),
        cpuinfo("AuthenticAMD", 2, flags="sse2"),
        "processor\t: 0\nFeatures\t: asimd\n",
        "",
        "not a cpuinfo: at all",
    ],
)
def test_mkl_is_left_alone_elsewhere(text: str) -> None:
    choice = machine.choose_mkl_path({}, machine.parse_cpuinfo(text))
    assert choice.value == ""
    assert choice.reason.startswith("unset")


def test_a_users_mkl_path_wins() -> None:
    processors = machine.parse_cpuinfo(cpuinfo("AuthenticAMD", 2))
    choice = machine.choose_mkl_path({"MKL_DEBUG_CPU_TYPE": "4"}, processors)
    assert (choice.value, choice.reason) == ("4", "set by the user")


@pytest.mark.parametrize(
    ("flags", "does"),
    [("avx2", False), ("avx512f", False), ("avx512f avx512bw avx512dq avx512vl avx512cd", True)],
)
def test_products_of_bfloat16_need_avx512(flags: str, does: bool) -> None:
    processors = machine.parse_cpuinfo(cpuinfo("AuthenticAMD", 2, flags=flags))
    assert machine.multiplies_bfloat16(processors) is does
    assert not machine.multiplies_bfloat16([])


def test_cores_are_physical_allowed_and_within_the_quota() -> None:
    processors = machine.parse_cpuinfo(cpuinfo("GenuineIntel", 8, threads_per_core=2))
    assert len(processors) == 16
    assert machine.available_cores(processors, frozenset(range(16)), None) == 8
    assert machine.available_cores(processors, frozenset({0, 1, 8, 9}), None) == 2
    assert machine.available_cores(processors, frozenset(range(16)), 3.5) == 3
    assert machine.available_cores(processors, frozenset(range(16)), 0.5) == 1
    assert machine.available_cores([], frozenset({0, 1, 2}), None) == 3


@pytest.mark.parametrize(
    ("environment", "started_with", "threads", "reason"),
    [
        ({}, None, "8", "8 cores / 1 process"),
        ({"OMP_NUM_THREADS": "3"}, None, "3", "set by the user"),
        ({"OMP_NUM_THREADS": "1"}, None, "1", "set by the user"),
        ({"PADDLE_LOCAL_SIZE": "2"}, {}, "4", "8 cores / 2 processes"),
        ({"PADDLE_LOCAL_SIZE": "32"}, {}, "1", "8 cores / 32 processes"),
        # Paddle's launcher hands down a 1 that nobody set ...
        ({"PADDLE_LOCAL_SIZE": "2", "OMP_NUM_THREADS": "1"}, {}, "4", "8 cores / 2 processes"),
        ({"PADDLE_LOCAL_SIZE": "2", "OMP_NUM_THREADS": "1"}, None, "4", "8 cores / 2 processes"),
        # ... or one that the user did set.
        (
            {"PADDLE_LOCAL_SIZE": "2", "OMP_NUM_THREADS": "1"},
            {"OMP_NUM_THREADS": "1"},
            "1",
            "set by the user",
        ),
        ({"PADDLE_LOCAL_SIZE": "2", "OMP_NUM_THREADS": "6"}, {}, "6", "set by the user"),
        # A process of ours started the launcher, and its own choice was handed down.
        (
            {"PADDLE_LOCAL_SIZE": "2", "OMP_NUM_THREADS": "8", machine.CHOSEN_THREADS: "8"},
            {"OMP_NUM_THREADS": "8"},
            "4",
            "8 cores / 2 processes",
        ),
        ({"PADDLE_LOCAL_SIZE": "many"}, None, "8", "8 cores / 1 process"),
        # torchrun hands down a 1, too, and srun and mpirun don't.
        (TORCHRUN | {"OMP_NUM_THREADS": "1"}, {}, "4", "8 cores / 2 processes"),
        (OPEN_MPI, None, "4", "8 cores / 2 processes"),
        (OPEN_MPI | {"OMP_NUM_THREADS": "1"}, None, "1", "set by the user"),
    ],
)
def test_threads(
    environment: dict[str, str], started_with: dict[str, str] | None, threads: str, reason: str
) -> None:
    choice = machine.choose_threads(environment, 8, launcher_environment=started_with)
    assert choice == ("OMP_NUM_THREADS", threads, reason)


@pytest.mark.parametrize(
    ("users", "is_quiet"),
    [
        ({}, True),
        ({"GLOG_minloglevel": "2"}, True),
        ({"GLOG_minloglevel": "0"}, False),
        ({"GLOG_v": "1"}, False),
    ],
)
def test_paddle_is_quiet_unless_its_logging_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, users: dict[str, str], is_quiet: bool
) -> None:
    for name in ("GLOG_minloglevel", "GLOG_v"):
        monkeypatch.delenv(name, raising=False)
    for name, value in users.items():
        monkeypatch.setenv(name, value)
    assert machine.paddle_is_quiet() == is_quiet


def run(script: str, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `script` in a child process that starts without any of the variables set."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OMP_", "MKL_", "PADDLE_", machine.CHOSEN_THREADS))
    }
    return subprocess.run(
        [sys.executable, *command, *([] if command else ["-c"]), script],
        env={**inherited, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )


def test_paddle_imports_silently_with_the_chosen_threads() -> None:
    script = "import llm_pretrain, paddle, os; print(os.environ['OMP_NUM_THREADS'])"
    result = run(script)
    chosen = next(choice for choice in machine.choices() if choice.name == "OMP_NUM_THREADS")
    cores = machine.available_cores(
        machine.parse_cpuinfo(Path("/proc/cpuinfo").read_text()),
        frozenset(os.sched_getaffinity(0)),
        None,
    )
    assert chosen.value
    assert 1 <= int(result.stdout) <= cores
    assert result.stderr == ""
    assert run(script, OMP_NUM_THREADS="3").stdout == "3\n"


def test_a_child_chooses_anew() -> None:
    script = (
        "import llm_pretrain, subprocess, sys\n"
        "machine = llm_pretrain.machine\n"
        "child = ['-c', 'import llm_pretrain; print(llm_pretrain.machine.choices()[0].reason)']\n"
        "for environment in (None, machine.environment_without_choices()):\n"
        "    subprocess.run([sys.executable, *child], env=environment, check=True)\n"
    )
    inherited, cleaned = run(script).stdout.splitlines()
    assert inherited == cleaned
    assert "1 process" in inherited
    assert run(script, OMP_NUM_THREADS="3").stdout.splitlines() == ["set by the user"] * 2


def test_paddle_imported_first_is_said() -> None:
    script = (
        "import sys, types; sys.modules['paddle'] = types.ModuleType('paddle')\n"
        "import llm_pretrain; print(llm_pretrain.machine.choices()[0].reason)"
    )
    assert "before llm_pretrain" in run(script).stdout


@pytest.mark.parametrize("users", ["", "1"])
def test_under_the_launcher(tmp_path: Path, users: str) -> None:
    script = tmp_path / "worker.py"
    script.write_text("import llm_pretrain; print(llm_pretrain.machine.choices()[0])")
    launch = ("-m", "paddle.distributed.launch", "--nproc_per_node", "1")
    settings = {"OMP_NUM_THREADS": users} if users else {}
    result = run(str(script), *launch, "--log_dir", str(tmp_path / "log"), **settings)
    printed = result.stdout + (tmp_path / "log" / "workerlog.0").read_text()
    assert ("set by the user" in printed) == bool(users)
    assert ("/ 1 process'" in printed) != bool(users)
