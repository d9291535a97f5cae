"""On the emulated device every layout gives the CPU's numbers, to the last bit of float32."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from llm_pretrain.models.families import CAPABILITIES
from tests.emulated_device.compile_plugin import DEVICE
from tests.parity import results
from tests.parity.grid import SAMPLES, Layout, Run, device_launches
from tests.parity.one_launch import Cases, launch, numbers
from tests.small_runs import write_data

STEPS = 2
ALONE = {
    "num_hidden_layers": 2,
    "gradient_accumulation_steps": 2,
    "per_device_train_batch_size": SAMPLES // 2,
}
HOUR = 3600.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("layouts")
    write_data(folder / "data")
    return folder


def train(
    folder: Path, name: str, cases: Cases, processes: int, device_environment: dict[str, str]
) -> tuple[list[list[float]], list[list[float]]]:
    """What each case logs on the CPU, and on the device."""
    length = {"max_steps": STEPS, "do_eval": True, "eval_steps": STEPS, "eval_iters": 1}
    cases = {case: {**length, **options} for case, options in cases.items()}
    # References alone, which the device has, too; threads would add up in an order of theirs.
    environments = {"cpu": {}, DEVICE: device_environment}
    expected, actual = (
        [
            numbers(output)
            for output in launch(
                folder,
                f"{name}-{device}",
                cases,
                processes,
                device=device,
                environment={"OMP_NUM_THREADS": "1", **environment},
                timeout=4 * HOUR,
            ).values()
        ]
        for device, environment in environments.items()
    )
    assert {len(found) for found in expected} == {2 * STEPS + 1}
    return expected, actual


def tolerance(layout: Layout) -> float:
    """Gloo adds the values of more than two ranks in another order than the device."""
    batch, heads = (layout.data, layout.sharding), (layout.tensor, layout.sep, layout.context)
    return 1e-6 if max(*batch, *heads, layout.pipeline) > 2 else 0.0


def train_and_compare(
    name: str, runs: list[Run], folder: Path, device_environment: dict[str, str]
) -> None:
    cases = {
        f"{number}": {
            "model_name_or_path": CAPABILITIES[model],
            **cell.layout.options,
            **cell.options,
        }
        for number, (model, cell) in enumerate(runs)
    }
    processes = runs[0][1].layout.processes
    found = train(folder, name, cases, processes, device_environment)
    passed = [
        (model, cell)
        for (model, cell), expected, actual in zip(runs, *found, strict=True)
        if actual == pytest.approx(expected, rel=tolerance(cell.layout), abs=0)
    ]
    results.record(name, passed, DEVICE)
    failed = [run for run in runs if run not in passed]
    assert not failed, "\n".join(f"{model}, {cell.column} {cell.options}" for model, cell in failed)


QUICK, OTHERS = device_launches(quick=True), device_launches(quick=False)


@pytest.mark.parametrize("processes", QUICK)
def test_equals_the_cpu(processes: int, folder: Path, device_environment: dict[str, str]) -> None:
    train_and_compare(f"{processes}", QUICK[processes], folder, device_environment)


@pytest.mark.slow
@pytest.mark.parametrize("processes", OTHERS)
def test_equals_the_cpu_in_full(
    processes: int, folder: Path, device_environment: dict[str, str]
) -> None:
    train_and_compare(f"{processes}-full", OTHERS[processes], folder, device_environment)


@pytest.mark.slow
def test_one_process_equals_the_cpu(folder: Path, device_environment: dict[str, str]) -> None:
    """In all families, with recomputation and without."""
    cases = {
        f"{model}-{recompute}": {
            "model_name_or_path": CAPABILITIES[model],
            "recompute": recompute,
            **ALONE,
        }
        for model, recompute in itertools.product(CAPABILITIES, (False, True))
    }
    expected, actual = train(folder, "one", cases, 1, device_environment)
    assert dict(zip(cases, actual, strict=True)) == dict(zip(cases, expected, strict=True))
