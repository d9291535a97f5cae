"""Settings of the machine that have to be in the environment before `import paddle`.

Paddle on a CPU is slow as installed: it runs one thread, and its MKL takes the SSE path on AMD
(up to ten times slower together). Both are decided by environment variables that are read once.
A value that the user has set is left alone.

Importing Paddle writes OMP_NUM_THREADS=1 where it is unset, and `paddle.distributed.launch`,
which imports it, hands that 1 down to the processes it starts, as torchrun does. To tell it from a
user's 1, the environment that the launcher itself was started with is read from /proc. A value
chosen here is noted in a second variable, so that a process started from this one chooses anew.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import io
import os
import platform
import re
import sys
import warnings
from collections.abc import Mapping, MutableMapping, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from llm_pretrain.machine import launchers


class Choice(NamedTuple):
    """One environment variable, its value ("" where unset), and why it has that value."""

    name: str
    value: str
    reason: str


class Processor(NamedTuple):
    """One logical processor of /proc/cpuinfo."""

    number: int
    core: tuple[str, str]
    vendor: str
    flags: frozenset[str]


# Holds the OMP_NUM_THREADS that this module chose, for the processes that inherit it.
CHOSEN_THREADS = "LLM_PRETRAIN_CHOSEN_THREADS"
USERS_OWN = "set by the user"
SIGNAL_STATUS = 128
"""Exit status of what a signal ended: this plus the signal's number, as shells have it."""

_choices: list[Choice] = []


def choices() -> list[Choice]:
    """What `configure` decided, for `--print_config`."""
    return list(_choices)


def configure() -> None:
    """Set the variables of this process; `import llm_pretrain` calls it once."""
    if "paddle" in sys.modules:
        names = ("OMP_NUM_THREADS", "MKL_DEBUG_CPU_TYPE")
        reason = "unchanged: paddle was imported before llm_pretrain"
        _choices[:] = [Choice(name, os.environ.get(name, ""), reason) for name in names]
        return
    processors = processors_here()
    cores = available_cores(processors, _affinity(), _cpu_quota())
    _choices[:] = [
        choose_threads(os.environ, cores, launcher_environment=_launcher_environment()),
        choose_mkl_path(os.environ, processors),
    ]
    for name, value, reason in _choices:
        if value:
            os.environ[name] = value
        if name == "OMP_NUM_THREADS" and reason != USERS_OWN:
            os.environ[CHOSEN_THREADS] = value
    _silence_paddle()
    sys.meta_path.insert(0, _QuietPaddle())


def environment_without_choices() -> dict[str, str]:
    """This process's environment less what was chosen here, for a program to choose anew."""
    ours = {choice.name for choice in _choices if choice.reason != USERS_OWN}
    return {
        name: value
        for name, value in os.environ.items()
        if name not in ours and name != CHOSEN_THREADS
    }


def choose_threads(
    environment: Mapping[str, str],
    cores: int,
    *,
    launcher_environment: Mapping[str, str] | None,
) -> Choice:
    """Threads of one process: the node's cores shared among its processes.

    `launcher_environment` is what the launcher was started with; None where it can't be known,
    and then a 1 under the launcher counts as Paddle's.
    """
    name = "OMP_NUM_THREADS"
    value = environment.get(name)
    processes = launchers.processes_on_this_node(environment)
    launched = not {"PADDLE_LOCAL_SIZE", "TORCHELASTIC_RUN_ID"}.isdisjoint(environment)
    from_launcher = launched and value == "1" and name not in (launcher_environment or {})
    from_parent = value == environment.get(CHOSEN_THREADS)
    if value and not from_launcher and not from_parent:
        return Choice(name, value, USERS_OWN)
    threads = max(1, cores // processes)
    return Choice(name, str(threads), f"{_count(cores, 'core')} / {_count(processes, 'process')}")


def choose_mkl_path(environment: Mapping[str, str], processors: Sequence[Processor]) -> Choice:
    """On AMD processors with AVX2: MKL's AVX2 path (5), which it would not take by itself."""
    name = "MKL_DEBUG_CPU_TYPE"
    value = environment.get(name)
    if value:
        return Choice(name, value, USERS_OWN)
    if not processors:
        return Choice(name, "", "unset: the processor is unknown")
    vendor = processors[0].vendor
    if vendor == "AuthenticAMD" and "avx2" in processors[0].flags:
        return Choice(name, "5", "AMD processor with AVX2")
    return Choice(name, "", f"unset: not needed on {vendor or 'this processor'}")


def parse_cpuinfo(text: str) -> list[Processor]:
    """The logical processors of a /proc/cpuinfo; [] where the text holds none."""
    processors = []
    for block in text.split("\n\n"):
        fields = {
            key.strip(): value.strip()
            for key, separator, value in (line.partition(":") for line in block.splitlines())
            if separator
        }
        number = fields.get("processor", "")
        if not number.isdigit():
            continue
        core = (fields.get("physical id", "0"), fields.get("core id", number))
        flags = frozenset(fields.get("flags", fields.get("Features", "")).split())
        processors.append(Processor(int(number), core, fields.get("vendor_id", ""), flags))
    return processors


_AVX512_CORE = {"avx512f", "avx512bw", "avx512dq", "avx512vl"}


def multiplies_bfloat16(processors: Sequence[Processor]) -> bool:
    """Whether oneDNN has products of bfloat16 on these; it wants what it calls AVX512_CORE."""
    return bool(processors) and processors[0].flags >= _AVX512_CORE


def processors_here() -> list[Processor]:
    """The logical processors of this machine; [] where the system doesn't tell."""
    return parse_cpuinfo(_read("/proc/cpuinfo"))


def processor_name() -> str:
    """What the first processor calls itself, or else its architecture."""
    for line in _read("/proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()


def available_cores(
    processors: Sequence[Processor], affinity: frozenset[int], quota: float | None
) -> int:
    """Physical cores that this process may use, at least 1.

    A second thread of a core adds nothing to matrix products. `quota` is a container's share, in
    processors.
    """
    cores = {processor.core for processor in processors if processor.number in affinity}
    count = len(cores) or len(affinity)
    return max(1, count if quota is None else min(count, int(quota)))


def free_memory() -> int:
    """Bytes that programs of this machine, or of this container, could still take."""
    lines = dict(line.split(":") for line in _read("/proc/meminfo").splitlines() if ":" in line)
    kilobytes = lines.get("MemAvailable", "0 kB").split()[0]
    free = [int(kilobytes) * 1024]
    limit, used = (_read(f"/sys/fs/cgroup/memory.{name}").strip() for name in ("max", "current"))
    if limit.isdigit() and used.isdigit():
        # What files have in memory counts as used, though it makes room when asked to.
        files = re.search(r"^inactive_file (\d+)$", _read("/sys/fs/cgroup/memory.stat"), re.M)
        free.append(int(limit) - int(used) + int(files[1] if files else 0))
    return max(min(free), 0)


def paddle_is_quiet() -> bool:
    """Whether what Paddle says of its own start is left out: unless its logging is asked for."""
    environment: Mapping[str, str] = os.environ
    return environment.get("GLOG_v", "0") == "0" and environment.get("GLOG_minloglevel") != "0"


def _silence_paddle() -> None:
    """Keep from the console what says nothing to the person who started the run."""
    # Sockets that opened as they should.
    os.environ.setdefault("GLOG_minloglevel", "1")
    # A compiler cache, for operators that are built on the fly; we build none.
    warnings.filterwarnings("ignore", message="No ccache found")
    # Fleet makes the groups of all ranks on each of them.
    warnings.filterwarnings("ignore", message=r"Current global rank \d+ is not in group")


def _count(number: int, noun: str) -> str:
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"{number} {noun if number == 1 else plural}"


def _affinity() -> frozenset[int]:
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def _cpu_quota() -> float | None:
    """The container's share of processors from its control group (version 2, then 1)."""
    limit, _, period = _read("/sys/fs/cgroup/cpu.max").strip().partition(" ")
    if not limit:
        limit = _read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").strip()
        period = _read("/sys/fs/cgroup/cpu/cpu.cfs_period_us").strip()
    if limit.isdigit() and period.isdigit() and int(period) > 0:
        return int(limit) / int(period)
    return None


def _launcher_environment() -> Mapping[str, str] | None:
    """The environment that the parent process was started with, where /proc tells it."""
    environment: MutableMapping[str, str] = {}
    for entry in _read(f"/proc/{os.getppid()}/environ").split("\0"):
        name, separator, value = entry.partition("=")
        if separator:
            environment[name] = value
    return environment or None


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


class _QuietPaddle(importlib.abc.MetaPathFinder):
    """Keeps Paddle's import from warning of more than one thread, which was chosen here."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != "paddle.base":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _QuietLoader(spec.loader)
        return spec


class _QuietLoader(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        caught = io.StringIO()
        try:
            with redirect_stderr(caught):
                self._loader.exec_module(module)
        finally:
            for line in caught.getvalue().splitlines():
                if "OMP_NUM_THREADS" not in line:
                    print(line, file=sys.stderr)
