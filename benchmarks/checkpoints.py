"""Saving and loading a checkpoint, beside the disk itself and torch.distributed.checkpoint.

The state is that of the model of 134 million parameters of `train_step.py` after a step, in
float32: weights and two moments. This program writes the weights twice, for itself and for others,
reads back what it has written, and notes checksums, with which it compares what it loads. The disk
is given as many bytes as this program writes, in blocks of 8 MiB, and one fsync, as by
`dd bs=8M conv=fsync`. Files are read when the system has let go of what it had of them in memory.
The rounds are interleaved.

    python benchmarks/checkpoints.py [--rounds 3] [--shape base] [--folder .]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from train_step import ROOT, SCRIPTS, SHAPES, Shape, peer_python, processor, run

from llm_pretrain import machine

_BLOCK = memoryview(os.urandom(8 << 20))


class Measured(NamedTuple):
    """Bytes of a checkpoint, and the seconds that it took to write and to read them."""

    bytes: int
    save: float
    load: float


def measure_disk(size: int, folder: Path) -> Measured:
    path = folder / "disk"
    began = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for begin in range(0, size, len(_BLOCK)):
            file.write(_BLOCK[: size - begin])
        os.fsync(file.fileno())
        written = time.perf_counter() - began
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    buffer = bytearray(len(_BLOCK))
    began = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
    seconds = time.perf_counter() - began
    path.unlink()
    return Measured(size, written, seconds)


def measure(python: str | Path, script: str, shape: Shape, folder: Path) -> Measured:
    described, result = folder / "shape.json", folder / "result.json"
    described.write_text(json.dumps({**shape.published(), "batch": 1, "sequence": 64}))
    environment = {**machine.environment_without_choices(), "PYTHONPATH": str(ROOT)}
    saved = folder / "saved"
    run([python, SCRIPTS / script, described, saved, result], environment, folder / "console.txt")
    found = json.loads(result.read_text())
    size = sum(path.stat().st_size for path in saved.rglob("*") if path.is_file())
    shutil.rmtree(saved)
    return Measured(size, found["save"], found["load"])


def table(runs: dict[str, list[Measured]]) -> list[str]:
    """Medians, and each rate beside that of the disk."""
    lines = [
        "| | GB | save, s | GB/s | of the disk | load, s | GB/s | of the disk |",
        "|---|---|---|---|---|---|---|---|",
    ]
    disk: list[float] = []
    for program, measured in runs.items():
        size = measured[0].bytes / 1e9
        words = [f"{size:.2f}"]
        for number, name in enumerate(("save", "load")):
            seconds = statistics.median(getattr(one, name) for one in measured)
            if len(disk) < 2:
                disk.append(size / seconds)
            share = size / seconds / disk[number]
            words += [f"{seconds:.2f}", f"{size / seconds:.2f}", f"{share:.2f}"]
        lines.append(f"| {program} | {' | '.join(words)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shape", default="base", help="of: base, wide, tiny (default: base)")
    parser.add_argument("--folder", type=Path, default=Path(), help="on the disk that is meant")
    arguments = parser.parse_args()
    shape = SHAPES[arguments.shape]
    programs = {"llm_pretrain": (sys.executable, "checkpoint_ours.py")}
    peer = peer_python("transformers")
    if peer.exists():
        programs["torch.distributed.checkpoint"] = (str(peer), "checkpoint_torch.py")
    else:
        print(f"Left out: torch.distributed.checkpoint; {peer} is missing (make peers)")
    runs: dict[str, list[Measured]] = {"the disk": []}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        for _ in range(arguments.rounds):
            for program, (python, script) in programs.items():
                runs.setdefault(program, []).append(measure(python, script, shape, Path(name)))
            size = runs["llm_pretrain"][-1].bytes
            runs["the disk"].append(measure_disk(size, Path(name)))
    print("\n".join([f"{processor()}; {shape.title}", "", *table(runs)]))


if __name__ == "__main__":
    main()
