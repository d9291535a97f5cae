"""Which process of which job this is, by the variables of the launcher that started it.

Paddle reads those of `paddle.distributed.launch`. torchrun, srun and mpirun have others, which say
the same; a process that overlooked them would train alone, in the folder of all.
"""

from __future__ import annotations

import os
import re
import socket
import zlib
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import NamedTuple


class LaunchError(ValueError):
    """The variables of a launcher don't say all, or nobody stands behind them."""


class Place(NamedTuple):
    """This process among those of its job, and where they meet."""

    rank: int
    world_size: int
    local_rank: int
    local_size: int
    master: str


class Launcher(NamedTuple):
    """A process above this one, by its number and the words of its command."""

    process: int
    command: list[str]


class _Names(NamedTuple):
    """A launcher and the variables that it sets."""

    launcher: str
    rank: str
    world_size: str
    local_rank: str
    local_size: str


# An inner launcher's come before those of the launchers that start it on other nodes.
_OTHERS = (
    _Names("torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    _Names(
        "mpirun",
        *(f"OMPI_COMM_WORLD_{word}" for word in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")),
    ),
    _Names("mpirun", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    _Names("srun", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"),
)
_NEEDED = (
    "PADDLE_TRAINER_ID",
    "PADDLE_TRAINERS_NUM",
    "PADDLE_CURRENT_ENDPOINT",
    "PADDLE_TRAINER_ENDPOINTS",
)
_PADDLES = (
    *_NEEDED,
    *("PADDLE_RANK_IN_NODE", "PADDLE_LOCAL_RANK", "PADDLE_LOCAL_SIZE"),
    *("PADDLE_GLOBAL_RANK", "PADDLE_GLOBAL_SIZE"),
)
_RIGHT_COMMAND = (
    "`python -m paddle.distributed.launch --log_level WARNING --nproc_per_node N "
    "run_pretrain.py CONFIG`"
)
# Below the ports that systems give to clients.
_PORTS = range(20_000, 30_000)

_translated = False


def adopt(environment: MutableMapping[str, str]) -> None:
    """Translate another launcher's variables into Paddle's, before Paddle is imported.

    Raises:
        LaunchError: they don't say all that is needed, or Paddle's are there only in part.
    """
    global _translated
    if any(name in environment for name in _PADDLES):
        _assert_whole(environment)
        if environment.get("PADDLE_TRAINERS_NUM", "1") == "1" and find_place(environment):
            present = [name for name in _PADDLES if name in environment]
            raise LaunchError(
                "Paddle's variables say that this process is alone, and those of another launcher "
                f"that it is one of several. {_leftover(present, environment)}"
            )
        return
    place = find_place(environment)
    if place is None:
        return
    visible = environment.get("CUDA_VISIBLE_DEVICES", "").split(",")
    gpu = place.local_rank % len(visible) if visible != [""] else place.local_rank
    host, _, port = place.master.rpartition(":")
    address = resolved(host)
    environment.update(
        PADDLE_TRAINER_ID=str(place.rank),
        PADDLE_TRAINERS_NUM=str(place.world_size),
        PADDLE_RANK_IN_NODE=str(place.local_rank),
        PADDLE_LOCAL_SIZE=str(place.local_size),
        PADDLE_MASTER=f"{address}:{port}",
        PADDLE_CURRENT_ENDPOINT=f"{own_address_towards(address)}:{port}",
        FLAGS_selected_gpus=str(gpu),
    )
    _translated = True


def processes_on_this_node(environment: Mapping[str, str]) -> int:
    """How many processes of the job the launcher started here; 1 without a launcher."""
    count = environment.get("PADDLE_LOCAL_SIZE")
    if count is None:
        try:
            place = find_place(environment)
        except LaunchError:
            place = None
        return 1 if place is None else place.local_size
    return max(1, int(count)) if count.isdigit() else 1


def find_place(environment: Mapping[str, str]) -> Place | None:
    """What the variables of torchrun, mpirun and srun say; None for a lone process.

    Raises:
        LaunchError: this is one of several processes, but it can't be known which, or where they
            meet.
    """
    problem = None
    for names in _OTHERS:
        if not _is_one_of_several(names, environment):
            continue
        try:
            return _read(names, environment)
        except LaunchError as error:
            problem = problem or error
    if problem is not None:
        raise problem
    return None


def unlaunched(environment: Mapping[str, str]) -> str:
    """Why Paddle's variables may be left over in a shell, and the remedy; "" where they aren't."""
    if _translated or _a_launcher_is_an_ancestor():
        return ""
    names = [name for name in _PADDLES if name in environment]
    return f"No launcher started this process. {_leftover(names, environment)}"


def _assert_whole(environment: Mapping[str, str]) -> None:
    """Paddle's own variables must be there all together and fit one another."""
    present = [name for name in _PADDLES if name in environment]
    rank, size = environment.get("PADDLE_TRAINER_ID", "0"), environment.get("PADDLE_TRAINERS_NUM")
    if size == "1" and rank == "0" and environment.get("PADDLE_RANK_IN_NODE", "0") == "0":
        return
    missing = [name for name in _NEEDED if not environment.get(name)]
    if missing:
        raise LaunchError(
            f"Of the variables that Paddle's launcher sets, {_are_missing(missing)}. "
            f"{_leftover(present, environment)}"
        )
    endpoints = environment["PADDLE_TRAINER_ENDPOINTS"].split(",")
    fits = rank.isdigit() and size == str(len(endpoints)) and int(rank) < len(endpoints)
    if not fits:
        raise LaunchError(
            f"The variables of Paddle's launcher contradict one another: PADDLE_TRAINER_ID={rank}, "
            f"PADDLE_TRAINERS_NUM={size}, and PADDLE_TRAINER_ENDPOINTS lists {len(endpoints)}. "
            f"{_leftover(present, environment)}"
        )


def _leftover(present: list[str], environment: Mapping[str, str]) -> str:
    values = ", ".join(f"{name}={environment[name]}" for name in present)
    return (
        f"If they are left over in this shell ({values}), remove them: `unset {' '.join(present)}`;"
        f" else start all processes by {_RIGHT_COMMAND}."
    )


def _is_one_of_several(names: _Names, environment: Mapping[str, str]) -> bool:
    if not environment.get(names.rank):
        return False
    return _world_size(names, environment) not in ("", "0", "1")


def _world_size(names: _Names, environment: Mapping[str, str]) -> str:
    if names.launcher != "srun":
        return environment.get(names.world_size, "")
    tasks = environment.get("SLURM_STEP_NUM_TASKS")
    if tasks is not None:
        return tasks
    # A batch script and the shell of `salloc` know the job's number of tasks and are none of them.
    is_task = "SLURM_STEP_ID" in environment or environment["SLURM_PROCID"] != "0"
    return environment.get(names.world_size, "") if is_task else "1"


def _read(names: _Names, environment: Mapping[str, str]) -> Place:
    size, rank = _world_size(names, environment), environment[names.rank]
    words = [rank, size, environment.get(names.local_rank, ""), _local_size(names, environment)]
    numbers = [int(word) for word in words if word.isdigit()]
    missing = [name for name, word in zip(names[3:], words[2:], strict=True) if not word]
    if missing:
        problem = _are_missing(missing)
    elif len(numbers) < len(words):
        problem = f"of {', '.join(words)} some are no numbers"
    elif numbers[0] >= numbers[1] or numbers[2] >= numbers[3]:
        problem = f"{names.local_rank}={words[2]} of {words[3]} on this machine contradicts that"
    else:
        host = _master_host(names, environment, alone=numbers[1] == numbers[3])
        port = _master_port(names, environment)
        if host and port.isdigit():
            return Place(
                rank=numbers[0],
                world_size=numbers[1],
                local_rank=numbers[2],
                local_size=numbers[3],
                master=f"{host}:{port}",
            )
        asked = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not environment.get(name)]
        problem = _are_missing(asked) if asked else f"MASTER_PORT={port} is no port"
    raise LaunchError(
        f"{names.rank}={rank} and {names.world_size}={size} make this one of {size} processes of "
        f"{names.launcher}, but {problem}. {_remedy(names)} Where one process is meant: "
        f"`unset {names.rank} {names.world_size}`."
    )


def _are_missing(names: list[str]) -> str:
    return f"{names[0]} is missing" if len(names) == 1 else f"{_listed(names)} are missing"


def _remedy(names: _Names) -> str:
    own = {
        "torchrun": "`torchrun --no-python --nproc_per_node N python run_pretrain.py CONFIG`",
        "srun": "`srun --ntasks N python run_pretrain.py CONFIG`",
        "mpirun": "`mpirun -np N python run_pretrain.py CONFIG`, with MASTER_ADDR and MASTER_PORT "
        "set for all (by `-x NAME=VALUE`, or `-genv NAME VALUE` of MPICH and Intel MPI),",
    }[names.launcher]
    return f"Start all of them by {own} or {_RIGHT_COMMAND}."


def _master_host(names: _Names, environment: Mapping[str, str], *, alone: bool) -> str:
    """The machine of rank 0; "" where it can't be known. `alone`: all processes are on this one."""
    named = environment.get("MASTER_ADDR", "")
    if named or names.launcher == "torchrun":
        return named
    if alone:
        return "127.0.0.1"
    if names.launcher == "srun":
        hosts = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
        return _first_host(hosts)
    return ""


def _master_port(names: _Names, environment: Mapping[str, str]) -> str:
    named = environment.get("MASTER_PORT", "")
    if names.launcher == "torchrun":
        # Its agent holds that port while it hands its own store to the processes.
        held = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and named.isdigit()
        return str(int(named) + (1 if int(named) < 65_535 else -1)) if held else named
    if named:
        return named
    # Jobs that meet on one machine differ in these, where they have them.
    slurms, mpis = ("SLURM_JOB_ID", "SLURM_STEP_ID"), ("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid")
    job = [environment.get(name, "") for name in (slurms if names.launcher == "srun" else mpis)]
    return str(_PORTS[zlib.crc32(" ".join(job).encode()) % len(_PORTS)])


def _local_size(names: _Names, environment: Mapping[str, str]) -> str:
    """How many processes are on this node; Slurm lists the tasks of all nodes, as 4(x2),3."""
    if names.launcher != "srun":
        return environment.get(names.local_size, "")
    counts: list[str] = []
    for item in environment.get("SLURM_STEP_TASKS_PER_NODE", "").split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", item)
        if match:
            counts += [match[1]] * int(match[2] or 1)
    node = environment.get("SLURM_NODEID", "0")
    if node.isdigit() and int(node) < len(counts):
        return counts[int(node)]
    nodes = environment.get("SLURM_STEP_NUM_NODES") or environment.get("SLURM_NNODES", "1")
    size = _world_size(names, environment)
    even = size.isdigit() and nodes.isdigit() and int(nodes) > 0
    return str(-(-int(size) // int(nodes))) if even else ""


def _first_host(hosts: str) -> str:
    """The first of a list of Slurm's, such as node[03-07,12],login1."""
    match = re.match(r"([^,\[]+)(?:\[(\w+)[^\]]*\])?([^,\[]*)", hosts)
    return "".join(part or "" for part in match.groups()) if match else ""


def resolved(host: str) -> str:
    """The IPv4 address of a machine.

    Raises:
        LaunchError: it has none here.
    """
    try:
        return socket.gethostbyname(host)
    except OSError as error:
        raise LaunchError(
            f"The processes are to meet on {host!r}, which has no address here "
            f"({error.strerror}); set MASTER_ADDR to a name or an IPv4 address of rank 0's machine."
        ) from error


def own_address_towards(address: str) -> str:
    """This machine's address on the network that leads to another one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))  # chooses a route and sends nothing
        except OSError as error:
            raise LaunchError(f"There is no route to {address}: {error.strerror}.") from error
        own: str = probe.getsockname()[0]
        return own


def launcher_of_this_process() -> Launcher | None:
    """The nearest launcher above this process; None without one, or where /proc doesn't tell."""
    try:
        return next((found for found in _ancestors() if _is_launcher(found.command)), None)
    except (OSError, ValueError, IndexError):
        return None


def _a_launcher_is_an_ancestor() -> bool:
    """Whether one that sets Paddle's variables is above this process; True if /proc is silent."""
    try:
        return any(_is_paddles(one.command) or _is_ours(one.command) for one in _ancestors())
    except (OSError, ValueError, IndexError):
        return True


def _ancestors() -> Iterator[Launcher]:
    """The processes above this one, up to the first of all."""
    process = os.getpid()
    while True:
        stat = Path(f"/proc/{process}/stat").read_text(errors="replace")
        # The second field, a name in brackets, may hold anything.
        process = int(stat.rpartition(")")[2].split()[1])
        if process == 0:
            return
        words = Path(f"/proc/{process}/cmdline").read_text(errors="replace")
        yield Launcher(process, words.rstrip("\0").split("\0"))


def _is_paddles(command: list[str]) -> bool:
    names = ("paddle.distributed", "paddle/distributed", "fleetrun")
    return any(name in word for word in command for name in names)


def _is_ours(command: list[str]) -> bool:
    words = command[1:4]
    named = any(word == "llm_pretrain" or Path(word).name == "llm-pretrain" for word in words)
    return named and "launch" in words


def _is_launcher(command: list[str]) -> bool:
    programs = {Path(word).name for word in command[:2]}
    others = {"torchrun", "srun", "mpirun", "mpiexec"}
    is_by_name = "torch.distributed.run" in command or bool(programs & others)
    return is_by_name or _is_paddles(command) or _is_ours(command)


def _listed(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def hosts_of_ranks(environment: Mapping[str, str]) -> list[str]:
    """The host of each rank, as the launcher says; [""] where it does not."""
    endpoints = environment.get("PADDLE_TRAINER_ENDPOINTS", "").split(",")
    return [endpoint.rpartition(":")[0] for endpoint in endpoints]
