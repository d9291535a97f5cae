"""Which process this is, by the variables of each launcher."""

from __future__ import annotations

import re
import socket

import pytest

from llm_pretrain.cli import main
from llm_pretrain.machine import launchers
from llm_pretrain.machine.launchers import LaunchError, Place, adopt, find_place

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}
SRUN = {
    "SLURM_JOB_ID": "12",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_NODELIST": "127.0.0.[1-2]",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
HYDRA = {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}
PADDLE = {
    "PADDLE_TRAINER_ID": "0",
    "PADDLE_TRAINERS_NUM": "2",
    "PADDLE_TRAINER_ENDPOINTS": "127.0.0.1:6170,127.0.0.1:6171",
    "PADDLE_CURRENT_ENDPOINT": "127.0.0.1:6170",
}


def without(variables: dict[str, str], *names: str) -> dict[str, str]:
    return {name: value for name, value in variables.items() if name not in names}


def test_torchrun_says_all() -> None:
    assert find_place(TORCHRUN) == Place(3, 4, 1, 2, "127.0.0.1:29500")
    # Its own store has that port where it hands it to the processes.
    held = TORCHRUN | {"TORCHELASTIC_USE_AGENT_STORE": "True"}
    assert find_place(held) == Place(3, 4, 1, 2, "127.0.0.1:29501")


def test_srun_says_all_and_the_tasks_of_a_step_meet_at_one_port() -> None:
    place = find_place(SRUN)
    assert place is not None
    assert place[:4] == (3, 4, 1, 2)
    assert re.fullmatch(r"127\.0\.0\.1:2\d{4}", place.master)
    first = find_place(SRUN | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"})
    other_step = find_place(SRUN | {"SLURM_STEP_ID": "1"})
    assert first is not None
    assert other_step is not None
    assert first.master == place.master != other_step.master
    chosen = find_place(SRUN | {"MASTER_ADDR": "localhost", "MASTER_PORT": "4321"})
    assert chosen is not None
    assert chosen.master == "localhost:4321"


def test_srun_without_the_number_of_tasks_per_node() -> None:
    place = find_place(without(SRUN, "SLURM_STEP_TASKS_PER_NODE") | {"SLURM_NNODES": "2"})
    assert place is not None
    assert place.local_size == 2


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"WORLD_SIZE": "4"},
        {"RANK": "0", "WORLD_SIZE": "1"},
        # A batch script of Slurm's, and the shell that salloc opens: none of the job's tasks.
        {"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "3"},
        {"SLURM_NTASKS": "8", "SLURM_JOB_ID": "3"},
        # An interactive step of one task in a job of eight.
        SRUN | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"},
        {"PADDLE_TRAINERS_NUM": "1", "PADDLE_TRAINER_ID": "0"},
    ],
)
def test_a_lone_process_stays_alone(variables: dict[str, str]) -> None:
    environment = dict(variables)
    adopt(environment)
    assert environment == variables
    assert launchers.processes_on_this_node(environment) == 1


@pytest.mark.parametrize("variables", [OPEN_MPI, HYDRA])
def test_mpirun_on_one_node_says_all(variables: dict[str, str]) -> None:
    place = find_place(variables)
    assert place is not None
    assert place[:4] == (1, 2, 1, 2)
    assert place.master.startswith("127.0.0.1:")


def test_mpirun_over_slurm_is_not_taken_for_the_step_that_carries_it() -> None:
    place = find_place({**SRUN, "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", **OPEN_MPI})
    assert place is not None
    assert place[:4] == (1, 2, 1, 2)


@pytest.mark.parametrize(
    ("variables", "missing", "command"),
    [
        (without(TORCHRUN, "MASTER_PORT"), "MASTER_PORT", "torchrun --no-python"),
        ({"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}, "LOCAL_WORLD_SIZE", "torchrun"),
        (OPEN_MPI | {"OMPI_COMM_WORLD_SIZE": "4"}, "MASTER_ADDR", "`-x NAME=VALUE`"),
        (without(HYDRA, "MPI_LOCALNRANKS"), "MPI_LOCALNRANKS", "mpirun -np N"),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "1"}, "SLURM_LOCALID", "srun --ntasks N"),
        (TORCHRUN | {"RANK": "4"}, "contradicts", "torchrun"),
        (TORCHRUN | {"RANK": "one"}, "no numbers", "torchrun"),
        (TORCHRUN | {"MASTER_PORT": "http"}, "MASTER_PORT", "torchrun"),
    ],
)
def test_what_does_not_say_all_is_refused_with_the_command(
    variables: dict[str, str], missing: str, command: str
) -> None:
    with pytest.raises(LaunchError) as caught:
        adopt(dict(variables))
    sentence = str(caught.value)
    assert missing in sentence
    assert command in sentence
    assert "python -m paddle.distributed.launch" in sentence
    assert "unset" in sentence


def test_a_name_without_an_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> str:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "gethostbyname", unknown)
    with pytest.raises(LaunchError, match=r"'node7', which has no address .* MASTER_ADDR"):
        adopt(TORCHRUN | {"MASTER_ADDR": "node7"})
    assert find_place(TORCHRUN | {"MASTER_ADDR": "node7"}) is not None


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("node3", "node3"),
        ("node[03-07,12],login1", "node03"),
        ("a-1,b[2-3]", "a-1"),
        ("rack[1-2].example", "rack1.example"),
    ],
)
def test_the_first_of_slurms_hosts(monkeypatch: pytest.MonkeyPatch, hosts: str, first: str) -> None:
    monkeypatch.setattr(socket, "gethostbyname", lambda name: name)
    place = find_place(SRUN | {"SLURM_STEP_NODELIST": hosts})
    assert place is not None
    assert place.master.startswith(f"{first}:")


def test_adopting_gives_paddles_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launchers, "_translated", False)
    environment = dict(TORCHRUN)
    adopt(environment)
    assert environment["PADDLE_TRAINER_ID"] == "3"
    assert environment["PADDLE_TRAINERS_NUM"] == "4"
    assert environment["PADDLE_RANK_IN_NODE"] == "1"
    assert environment["PADDLE_LOCAL_SIZE"] == "2"
    assert environment["PADDLE_MASTER"] == "127.0.0.1:29500"
    assert environment["PADDLE_CURRENT_ENDPOINT"].startswith("127.0.0.1:")
    assert environment["FLAGS_selected_gpus"] == "1"
    # A task that sees one GPU takes it, whatever its number on the node.
    one_gpu = TORCHRUN | {"CUDA_VISIBLE_DEVICES": "5"}
    adopt(one_gpu)
    assert one_gpu["FLAGS_selected_gpus"] == "0"


def test_paddles_own_launcher_comes_first() -> None:
    environment = {**PADDLE, **TORCHRUN, **SRUN}
    adopt(environment)
    assert environment == {**PADDLE, **TORCHRUN, **SRUN}


@pytest.mark.parametrize(
    "variables",
    [
        {"PADDLE_TRAINERS_NUM": "2", "PADDLE_TRAINER_ID": "0"},
        {"PADDLE_TRAINER_ID": "1"},
        {"PADDLE_RANK_IN_NODE": "1"},
        without(PADDLE, "PADDLE_CURRENT_ENDPOINT"),
        PADDLE | {"PADDLE_TRAINER_ID": "2"},
        PADDLE | {"PADDLE_TRAINERS_NUM": "3"},
        {"PADDLE_TRAINERS_NUM": "1", "PADDLE_TRAINER_ID": "0", **TORCHRUN},
        {**without(PADDLE, "PADDLE_TRAINER_ENDPOINTS"), **TORCHRUN},
    ],
)
def test_half_of_paddles_variables_are_named_and_nothing_starts(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variables: dict[str, str],
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert main(["train", "no such config"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    names = [name for name in variables if name.startswith("PADDLE")]
    unset = re.search(r"`unset ([A-Z_ ]+)`", line)
    assert unset
    assert sorted(unset[1].split()) == sorted(names)
    assert all(f"{name}={variables[name]}" in line for name in names)
