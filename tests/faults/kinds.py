"""The kinds of fault: what is done to a job, and how one sees that it is over it."""

from __future__ import annotations

import json
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llm_pretrain.checkpoint.directory import checkpoints_in
from tests.faults.job import Job, send

Do = Callable[[Job, random.Random], None]


def kill_rank(job: Job, draw: random.Random) -> None:
    """SIGKILL to a rank, whatever it is doing; the launcher replaces it."""
    _replaced_after(job, lambda: send(_one_rank(job, draw)[1], signal.SIGKILL))


def stop_rank(job: Job, draw: random.Random) -> None:
    """SIGSTOP to a rank for good: it is named, and replaced like a dead one."""
    rank, process = _one_rank(job, draw)
    if job.layout.processes == 1:
        # There is nobody who waits for it: somebody ends it.
        send(process, signal.SIGSTOP)
        time.sleep(0.5)
        _replaced_after(job, lambda: send(process, signal.SIGKILL))
        return
    _replaced_after(job, lambda: send(process, signal.SIGSTOP))
    said = job.console.read_text(errors="replace") + "".join(
        path.read_text(errors="replace") for path in (job.folder / "log").glob("workerlog.*")
    )
    assert f"rank {rank} on" in said, f"rank {rank} was not named"
    send(process, signal.SIGKILL)


def slow_rank(job: Job, draw: random.Random) -> None:
    """SIGSTOP to a rank for a second or two: nothing but time is lost."""
    process = _one_rank(job, draw)[1]
    send(process, signal.SIGSTOP)
    time.sleep(draw.uniform(0.5, 2.0))
    send(process, signal.SIGCONT)


def end_job(job: Job, draw: random.Random) -> None:
    """SIGTERM to the launcher: all save and end, and the same command goes on."""
    assert job.process is not None
    send(job.process.pid, signal.SIGTERM)
    job.wait_until(job.has_ended, "the end after SIGTERM")
    _start_again(job)


def fill_disk(job: Job, draw: random.Random) -> None:
    """The processes that write checkpoints can't write for a while: a save fails, and a later one
    succeeds."""
    writers = job.writers()
    before = job.newest_checkpoint()
    limits = {process: resource.prlimit(process, resource.RLIMIT_FSIZE) for process in writers}
    for process, (_, most) in limits.items():
        resource.prlimit(process, resource.RLIMIT_FSIZE, (1000, most))
    failed = len(_events(job, "failed_save"))
    job.wait_until(
        lambda: not writers or len(_events(job, "failed_save")) > failed or job.has_ended(),
        "a save that fails",
    )
    for process, limit in limits.items():
        resource.prlimit(process, resource.RLIMIT_FSIZE, limit)
    job.wait_until(
        lambda: job.newest_checkpoint() > before or job.has_ended(), "a save after the failed one"
    )


def tear_file(job: Job, draw: random.Random) -> None:
    """A file of the newest checkpoint loses its end; then a rank dies, so that it is read."""
    _damaged(job, draw, lambda path: _truncate(path, path.stat().st_size // 2))


def flip_on_disk(job: Job, draw: random.Random) -> None:
    """A bit of a file of the newest checkpoint flips; then a rank dies, so that it is read."""

    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(content)

    _damaged(job, draw, flip)


def unreadable_file(job: Job, draw: random.Random) -> None:
    """A file of the newest checkpoint can't be read; then a rank dies, so that it is tried."""

    def replace(path: Path) -> None:
        path.unlink()
        path.mkdir()

    _damaged(job, draw, replace)


def not_a_number(job: Job, draw: random.Random) -> None:
    """A gradient is not a number, once: the run stops, no weight has changed, and the same command
    goes on; or, at a step that is done twice to compare bits, it goes back as for a flip."""
    rewound = _rewound(job)
    _inject(job, draw, {"kind": "nan"})
    job.wait_until(
        lambda: job.has_ended() or _rewound(job) > rewound,
        "the end because of a gradient that is not finite",
    )
    if not job.has_ended():
        return
    assert job.process is not None
    assert job.process.returncode == 1
    assert "Not finite at step" in job.console.read_text(errors="replace")
    _start_again(job)


def flip_in_memory(job: Job, draw: random.Random) -> None:
    """A bit flips in a weight, a master or a moment: the run goes back and names the rank."""
    rewound = _rewound(job)
    entry = {
        "kind": "flip",
        "value": draw.choice(["weights", "master", "moment1", "moment2"]),
        "bucket": draw.random(),
        "element": draw.random(),
        "bit": draw.randrange(32),
    }
    _inject(job, draw, entry)
    job.wait_until(
        lambda: _rewound(job) > rewound or job.has_ended(), "a flip that is found and undone"
    )


KINDS: dict[str, Do] = {
    "rank killed": kill_rank,
    "rank stopped": stop_rank,
    "rank slow": slow_rank,
    "job ended by SIGTERM": end_job,
    "disk full": fill_disk,
    "file torn": tear_file,
    "bit flipped on disk": flip_on_disk,
    "file unreadable": unreadable_file,
    "gradient not a number": not_a_number,
    "bit flipped in memory": flip_in_memory,
}


def _one_rank(job: Job, draw: random.Random) -> tuple[int, int]:
    ranks = sorted(place for place in job.ranks().items() if place[0] not in job.spared)
    assert ranks, "no rank is alive"
    return draw.choice(ranks)


def _start_again(job: Job) -> None:
    """Start the same command; return when it has made a step, or all were made before."""
    before = len(job.lines())
    job.start()
    job.wait_until(
        lambda: any(line["kind"] == "step" for line in job.lines()[before:]) or job.has_ended(),
        "a step of the job that goes on",
    )


def _replaced_after(job: Job, action: Callable[[], None]) -> None:
    """Return when the launcher has formed the ranks anew."""
    before = job.formations()
    action()
    job.wait_until(lambda: job.formations() > before or job.has_ended(), "ranks that form anew")


def _damaged(job: Job, draw: random.Random, damage: Callable[[Path], None]) -> None:
    checkpoints = checkpoints_in(job.output)
    if len(checkpoints) > 1:  # one that is whole is left
        files = sorted(path for path in checkpoints[-1].rglob("*.safetensors"))
        try:
            damage(draw.choice(files))
        except FileNotFoundError:
            shutil.rmtree(checkpoints[-1], ignore_errors=True)  # it was just being replaced
    kill_rank(job, draw)


def _truncate(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size)


def _inject(job: Job, draw: random.Random, entry: dict[str, Any]) -> None:
    rank = _one_rank(job, draw)[0]
    path = job.folder / "faults" / f"rank-{rank}.json"
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(entry))
    unfinished.rename(path)
    job.wait_until(
        lambda: not path.exists() or job.has_ended(), "a step at which the fault is done"
    )


def _rewound(job: Job) -> int:
    """How often the run has gone back."""
    return sum("rewound_to" in line for line in job.lines())


def _events(job: Job, event: str) -> list[dict[str, Any]]:
    return [line for line in job.lines() if line["kind"] == "event" and line["event"] == event]
