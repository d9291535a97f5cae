"""On the emulated device every layout gives the CPU's numbers, to the last bit of float32."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from llm_pretrain.models.families import CAPABILITIES
from tests.emulated_device.compile_plugin import DEVICE
from tests.launching import ROOT, logged, run_job
from tests.parity.grid import CELLS, QUICK_MODELS, SAMPLES, Cell
from tests.small_runs import small_config, write_config, write_data, write_model

pytestmark = pytest.mark.slow
WORKER = ROOT / "tests" / "parity" / "worker.py"
STEPS = 3
METRICS = ("loss", "global_norm", "eval_loss")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("layouts")
    write_data(folder / "data")
    write_model(folder / "model")
    return folder


def numbers(
    folder: Path,
    device: str,
    processes: int,
    cases: dict[str, dict[str, Any]],
    environment: dict[str, str],
) -> dict[str, list[float]]:
    """What each case logs, as it trains on a device."""
    outputs = {name: folder / f"{device}-{processes}-{name}" for name in cases}
    paths = []
    for name, options in cases.items():
        config = small_config(
            folder / "model",
            folder / "data",
            outputs[name],
            max_steps=STEPS,
            do_eval=True,
            eval_steps=STEPS,
            eval_iters=1,
            **options,
        )
        paths.append(str(write_config(outputs[name].with_suffix(".json"), config)))
    listed = folder / f"{device}-{processes}-{len(cases)}-cases.json"
    listed.write_text(json.dumps(paths))
    log = folder / f"log-{device}-{processes}"
    run_job(
        WORKER,
        listed,
        device,
        processes=processes,
        log_dir=log,
        environment=environment,
        timeout=1800,
    )
    return {
        name: [
            line[metric]
            for line in logged(output) + logged(output, "evaluation")
            for metric in METRICS
            if metric in line
        ]
        for name, output in outputs.items()
    }


def compare(
    folder: Path,
    processes: int,
    cases: dict[str, dict[str, Any]],
    device_environment: dict[str, str],
) -> None:
    expected = numbers(folder, "cpu", processes, cases, {})
    actual = numbers(folder, DEVICE, processes, cases, device_environment)
    assert all(len(found) == 2 * STEPS + 1 for found in expected.values())
    for name, options in cases.items():
        # Gloo adds the values of more than two ranks in another order.
        degrees = (options.get(f"{kind}_parallel_degree", 1) for kind in ("tensor", "sep"))
        tolerance = 1e-6 if max(degrees) > 2 else 0
        assert actual[name] == pytest.approx(expected[name], rel=tolerance, abs=0), name


def cases_of(cells: list[Cell]) -> dict[str, dict[str, Any]]:
    return {
        re.sub(r"\W+", "-", f"{cell.column} {number}"): {**cell.layout.options, **cell.options}
        for number, cell in enumerate(cells)
    }


def test_one_process(folder: Path, device_environment: dict[str, str]) -> None:
    options = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": SAMPLES // 2}
    cases = {"plain": options, "recompute": {**options, "recompute": True}}
    compare(folder, 1, cases, device_environment)


def test_families(folder: Path, device_environment: dict[str, str]) -> None:
    """One for each kind of layer."""
    cases = {
        model: {
            "model_name_or_path": CAPABILITIES[model],
            "num_hidden_layers": 2,
            "gradient_accumulation_steps": 2,
        }
        for model in QUICK_MODELS
    }
    compare(folder, 1, cases, device_environment)


@pytest.mark.parametrize("processes", [2, 4])
def test_layouts(processes: int, folder: Path, device_environment: dict[str, str]) -> None:
    cells = [cell for cell in CELLS if cell.is_exact and cell.layout.processes == processes]
    compare(folder, processes, cases_of(cells), device_environment)
