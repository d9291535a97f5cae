"""Predicted and measured time of a step of this program, on this machine's processors.

    python benchmarks/planning_time.py [--only TEXT] [--steps 8]

Measures the machine, as `plan --gpu cpu` does, and then trains each case, on one thread a process
and no more processes than there are cores; writes `docs/planning_time.md`. Run it on a machine
that does nothing else: it takes about three minutes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.small_runs import small_config, write_config, write_data, write_model  # noqa: E402

from llm_pretrain.config import load_run_config, resolve_degrees  # noqa: E402
from llm_pretrain.planning.calibrate import logged_step_seconds  # noqa: E402
from llm_pretrain.planning.layouts import layout_of  # noqa: E402
from llm_pretrain.planning.machines import load_machine  # noqa: E402
from llm_pretrain.planning.plan import Planner  # noqa: E402
from llm_pretrain.planning.program import ThisProgram  # noqa: E402
from llm_pretrain.planning.step import StepTime  # noqa: E402
from llm_pretrain.training.preflight import model_config_of  # noqa: E402

PAGE = ROOT / "docs" / "planning_time.md"
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


@dataclass(frozen=True)
class Case:
    """A model and a layout; `hidden` is the model's width."""

    name: str
    hidden: int
    layers: int
    length: int
    processes: int = 1
    options: dict[str, Any] = field(default_factory=dict)


CASES = (
    Case("narrow", 256, 4, 512),
    Case("base", 512, 4, 512),
    Case("wide", 1024, 2, 512),
    Case("long", 512, 2, 2048, options={"per_device_train_batch_size": 1}),
    Case("recompute", 512, 4, 512, options={"recompute": True}),
    Case("small vocabulary, deep", 512, 8, 256),
    Case("dp2", 512, 4, 512, 2),
    Case("sd2 stage1", 512, 4, 512, 2, {"sharding": "stage1"}),
    Case("sd2 stage3", 512, 4, 512, 2, {"sharding": "stage3"}),
    Case("tp2", 512, 4, 512, 2, {"tensor_parallel_degree": 2}),
    Case("pp2", 512, 4, 512, 2, {"pipeline_parallel_degree": 2}),
)


@dataclass(frozen=True)
class Row:
    """Seconds of a step."""

    case: Case
    predicted: float
    measured: float
    parts: dict[str, float]

    @property
    def error(self) -> float:
        return self.predicted / self.measured - 1.0


def rows(cases: list[Case], steps: int) -> Iterator[Row]:
    """Each case, predicted with one measurement of the machine for each number of processes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        machines: dict[int, Path] = {}
        for number, case in enumerate(cases):
            if case.processes not in machines:
                machines[case.processes] = _machine(folder, case.processes)
            config = _config(folder / str(number), case, steps)
            _train(config, case.processes, folder / str(number) / "log")
            measured = logged_step_seconds(str(config.parent / "out" / "train_log.jsonl"))
            step = _plan(config, machines[case.processes], case.processes)
            yield Row(case, step.total, measured, dict(step.seconds))


def _machine(folder: Path, processes: int) -> Path:
    path = folder / f"cpu-{processes}.json"
    command = [sys.executable, "-m", "llm_pretrain.planning.measure"]
    path.write_text(_run([*command, str(processes)]).splitlines()[-1])
    return path


def _config(folder: Path, case: Case, steps: int) -> Path:
    model = write_model(
        folder / "model",
        hidden_size=case.hidden,
        intermediate_size=case.hidden * 8 // 3 // 64 * 64,
        num_hidden_layers=case.layers,
        vocab_size=4096,
        num_attention_heads=case.hidden // 64,
        num_key_value_heads=case.hidden // 64,
        max_position_embeddings=case.length,
    )
    keys = {
        "max_seq_length": case.length,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "max_steps": steps,
        "use_flash_attention": True,
        **case.options,
    }
    data = write_data(folder / "data", documents=3000)
    return write_config(folder / "run.json", small_config(model, data, folder / "out", **keys))


def _train(config: Path, processes: int, log: Path) -> None:
    launch = ["-m", "paddle.distributed.launch", "--nproc_per_node", str(processes)]
    launch += ["--log_dir", str(log)]
    _run([sys.executable, *(launch if processes > 1 else ()), "run_pretrain.py", str(config)])


def _plan(config: Path, machine: Path, processes: int) -> StepTime:
    """Of the case's own layout."""
    run = load_run_config(str(config))
    planner = Planner(run, model_config_of(run), load_machine(str(machine)), ThisProgram("cpu"))
    layout = layout_of(run, resolve_degrees(run.training, processes))
    return planner.plan(layout).step


def _run(command: list[str]) -> str:
    """What it prints."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **_ENVIRONMENT},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done.stdout


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="")
    parser.add_argument("--steps", type=int, default=8)
    arguments = parser.parse_args()
    for row in rows([case for case in CASES if arguments.only in case.name], arguments.steps):
        parts = ", ".join(f"{part} {each:.3f}" for part, each in row.parts.items() if each > 1e-3)
        print(f"{row.case.name}: {row.measured:.3f} s, predicted {row.predicted:.3f} s, "
              f"{row.error:+.1%} ({parts})", flush=True)  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
