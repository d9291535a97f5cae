"""Every layout gives the loss and the gradient norm of one process, step by step.

One process is the control. All start from the same values, which a tensor's name and the seed
decide, and read the same samples: where fewer ranks read data, they take more micro-batches. A
launch trains every model in every cell of its layout.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_pretrain.models.families import CAPABILITIES
from tests.launching import logged, run_job
from tests.parity import results
from tests.parity.grid import BF16, CELLS, MICRO_BATCHES, Cell, launches
from tests.small_runs import small_config, write_config, write_data

WORKER = Path(__file__).with_name("worker.py")
TOLERANCE = 1e-5
STEPS = 20
METRICS = ("loss", "global_norm", "eval_loss")

Steps = list[dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parity")
    write_data(folder / "data")
    return folder


def train(
    folder: Path, name: str, processes: int, runs: list[tuple[str, dict[str, Any]]]
) -> list[Steps]:
    """Train (seed of a model, options) one after another in one launch; what each logged."""
    paths = []
    for number, (seed, options) in enumerate(runs):
        output = folder / f"{name}-{number}"
        config = small_config(
            Path(seed),
            folder / "data",
            output,
            max_steps=STEPS,
            do_eval=True,
            eval_steps=STEPS // 2,
            eval_iters=1,
            **options,
        )
        paths.append(str(write_config(output.with_suffix(".json"), config)))
    cases = folder / f"{name}-cases.json"
    cases.write_text(json.dumps(paths))
    run_job(WORKER, cases, processes=processes, log_dir=folder / f"log-{name}", timeout=1800)
    outputs = [Path(path).with_suffix("") for path in paths]
    return [logged(output) + logged(output, "evaluation") for output in outputs]


def control_options(micro_batch: int, **options: Any) -> dict[str, Any]:
    samples = 2 * MICRO_BATCHES
    return {
        "per_device_train_batch_size": micro_batch,
        "gradient_accumulation_steps": samples // micro_batch,
        "per_device_eval_batch_size": samples,
        **options,
    }


@pytest.fixture(scope="module")
def control(folder: Path) -> dict[str, Steps]:
    """Every model on one process."""
    seeds = sorted(set(CAPABILITIES.values()))
    found = train(folder, "one", 1, [(seed, control_options(2)) for seed in seeds])
    for seed, steps in zip(seeds, found, strict=True):
        assert steps[STEPS - 1]["loss"] < 0.95 * steps[0]["loss"], f"{seed} has learned nothing"
    return dict(zip(seeds, found, strict=True))


@pytest.fixture(scope="module")
def rounded_controls(folder: Path) -> dict[str, list[Steps]]:
    """Every model in bf16 on one process, summing its gradients in different orders."""
    seeds = sorted(set(CAPABILITIES.values()))
    runs = [(seed, control_options(size, **BF16)) for seed in seeds for size in (2, 4, 8)]
    found = train(folder, "one-bf16", 1, runs)
    return {seed: found[3 * number : 3 * number + 3] for number, seed in enumerate(seeds)}


def differences(expected: Steps, actual: Steps) -> Iterator[tuple[str, float]]:
    """(step and metric, relative difference) of two runs."""
    assert len(expected) == len(actual) == STEPS + 2
    for one, other in zip(expected, actual, strict=True):
        for metric in METRICS:
            if metric in one:
                place = f"step {one['global_step']} {metric}"
                yield place, abs(one[metric] - other[metric]) / abs(one[metric])


def spread(controls: list[Steps]) -> float:
    """The largest relative difference among runs that differ in rounding alone."""
    return max(
        relative
        for number, one in enumerate(controls)
        for other in controls[:number]
        for _, relative in differences(one, other)
    )


def run_cells(name: str, cells: list[Cell], folder: Path, request: pytest.FixtureRequest) -> None:
    runs = [(model, seed, cell) for cell in cells for model, seed in CAPABILITIES.items()]
    found = train(
        folder,
        name,
        cells[0].layout.processes,
        [(seed, {**cell.layout.options, **cell.options}) for _, seed, cell in runs],
    )
    passed, failed = [], []
    for (model, seed, cell), steps in zip(runs, found, strict=True):
        if cell.is_exact:
            expected, tolerance = request.getfixturevalue("control")[seed], TOLERANCE
        else:
            controls = request.getfixturevalue("rounded_controls")[seed]
            expected, tolerance = controls[0], spread(controls)
        wrong = [
            f"{model}, {cell.column} {cell.options}, {place}: off by {relative:.2g}"
            for place, relative in differences(expected, steps)
            if not relative <= tolerance
        ]
        failed += wrong[:1]
        passed += [] if wrong else [(model, cell)]
    results.record(name, passed)
    assert not failed, "\n".join(failed)


QUICK = launches(tuple(cell for cell in CELLS if cell.is_quick))
SLOW = launches(tuple(cell for cell in CELLS if not cell.is_quick))


@pytest.mark.parametrize("layout", QUICK)
def test_equals_one_process(layout: str, folder: Path, request: pytest.FixtureRequest) -> None:
    run_cells(layout, QUICK[layout], folder, request)


@pytest.mark.slow
@pytest.mark.parametrize("layout", SLOW)
def test_equals_one_process_in_full(
    layout: str, folder: Path, request: pytest.FixtureRequest
) -> None:
    run_cells(f"{layout}-full", SLOW[layout], folder, request)
