"""In 16 bits every layout of the emulated device trains as one process there and on the CPU.

Sums in another order are rounded elsewhere, so that nothing is equal to the last bit: a run may be
off twice as much as runs of one process are from each other where only that order differs.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from llm_pretrain.models.families import CAPABILITIES
from tests.emulated_device.compile_plugin import DEVICE
from tests.launching import ROOT, logged, run_job
from tests.parity.grid import BF16, CELLS, QUICK_MODELS, SAMPLES
from tests.small_runs import small_config, write_config, write_data, write_model

pytestmark = pytest.mark.slow
WORKER = ROOT / "tests" / "parity" / "worker.py"
STEPS = 6
METRICS = ("loss", "global_norm")
FP16 = {**BF16, "bf16": False, "fp16": True}
PRECISIONS = {"bf16": BF16, "fp16": FP16}
TOO_LARGE_SCALE = {**FP16, "scale_loss": 2.0**21}
"""The first two steps overflow: they are skipped, and the scale is halved."""
FUSED = {"fuse_attention_qkv": True, "fuse_attention_ffn": True}
ORDERS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "fused": FUSED,
    "larger batches": {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4},
    "fused, small batches": {
        "gradient_accumulation_steps": 8,
        "per_device_train_batch_size": 1,
        **FUSED,
    },
}
"""Options that change the order of sums and what is rounded between, and nothing else."""

Case = tuple[str, str]
"""A precision, and the order or the layout."""
Steps = list[dict[str, Any]]


def train(
    folder: Path,
    device: str,
    processes: int,
    cases: dict[Case, dict[str, Any]],
    environment: dict[str, str],
) -> dict[Case, Steps]:
    """What each case logs of its steps; the norm of one that was skipped is None."""
    name = f"{device}-{processes}-{len(cases)}"
    paths = []
    for number, options in enumerate(cases.values()):
        output = folder / f"{name}-{number}"
        changes = {"max_steps": STEPS, **options}
        config = small_config(folder / "model", folder / "data", output, **changes)
        paths.append(str(write_config(output.with_suffix(".json"), config)))
    listed = folder / f"{name}-cases.json"
    listed.write_text(json.dumps(paths))
    run_job(
        WORKER,
        listed,
        device,
        processes=processes,
        log_dir=folder / f"log-{name}",
        environment=environment,
        timeout=1800,
    )
    return {
        case: logged(Path(path).with_suffix("")) for case, path in zip(cases, paths, strict=True)
    }


def difference(one: Steps, other: Steps) -> dict[str, float]:
    """The largest relative difference of each metric, of runs that have taken the same steps."""
    for key in ("global_step", "loss_scale", "skipped_steps"):
        assert [step.get(key) for step in one] == [step.get(key) for step in other]
    return {
        metric: max(
            abs(a[metric] / b[metric] - 1)
            for a, b in zip(one, other, strict=True)
            if a[metric] is not None
        )
        for metric in METRICS
    }


def one_process(**options: Any) -> dict[str, Any]:
    batches = {"gradient_accumulation_steps": 4, "per_device_train_batch_size": SAMPLES // 4}
    return {"num_hidden_layers": 3, **batches, **options}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("16-bits")
    write_data(folder / "data")
    write_model(folder / "model")
    return folder


@pytest.fixture(scope="module")
def alone(folder: Path, device_environment: dict[str, str]) -> dict[Case, Steps]:
    """Runs of one process on the device."""
    cases = {
        (precision, order): one_process(**options, **changes)
        for precision, options in PRECISIONS.items()
        for order, changes in ORDERS.items()
    }
    cases["fp16", "overflow"] = one_process(**TOO_LARGE_SCALE)
    return train(folder, DEVICE, 1, cases, device_environment)


@pytest.fixture(scope="module")
def tolerances(alone: dict[Case, Steps]) -> dict[str, dict[str, float]]:
    """By precision: twice what one process is off where sums are in another order."""
    found = {}
    for precision in PRECISIONS:
        runs = [alone[precision, order] for order in ORDERS]
        pairs = [difference(*pair) for pair in itertools.combinations(runs, 2)]
        found[precision] = {metric: 2 * max(pair[metric] for pair in pairs) for metric in METRICS}
    return found


def check(off: dict[Case, dict[str, float]], tolerances: dict[str, dict[str, float]]) -> None:
    print(f"allowed {tolerances}\n", *(f"{case} {found}\n" for case, found in off.items()))
    for (precision, name), found in off.items():
        for metric in METRICS:
            assert found[metric] <= tolerances[precision][metric], (precision, name, metric)


@pytest.mark.parametrize("processes", [2, 4])
def test_layouts_follow_one_process(
    processes: int,
    folder: Path,
    alone: dict[Case, Steps],
    tolerances: dict[str, dict[str, float]],
    device_environment: dict[str, str],
) -> None:
    cells = [c for c in CELLS if not c.is_exact and c.layout.processes == processes]
    cases = {
        (precision, cell.layout.name): {**cell.layout.options, **cell.options, **options}
        for precision, options in PRECISIONS.items()
        for cell in cells
    }
    # Of as many micro-batches as on one process, as overflow depends on their size.
    cell = next(cell for cell in cells if cell.layout.sharding > 1)
    cases["fp16", "overflow"] = {**cell.layout.options, **cell.options, **TOO_LARGE_SCALE}
    found = train(folder, DEVICE, processes, cases, device_environment)
    off = {
        (precision, name): difference(
            steps, alone[precision, name if name == "overflow" else "as it is"]
        )
        for (precision, name), steps in found.items()
    }
    check(off, tolerances)


def test_steps_that_overflow_are_skipped(alone: dict[Case, Steps]) -> None:
    norms = [step["global_norm"] for step in alone["fp16", "overflow"]]
    assert norms[:2] == [None, None]
    assert None not in norms[2:]
    assert alone["fp16", "overflow"][-1]["loss_scale"] == TOO_LARGE_SCALE["scale_loss"] / 4


def test_one_process_follows_the_cpu(
    folder: Path, alone: dict[Case, Steps], tolerances: dict[str, dict[str, float]]
) -> None:
    cases = {(name, "as it is"): one_process(**options) for name, options in PRECISIONS.items()}
    found = train(folder, "cpu", 1, cases, {})
    check({case: difference(alone[case], steps) for case, steps in found.items()}, tolerances)


def test_families_follow_the_cpu(folder: Path, device_environment: dict[str, str]) -> None:
    """One for each kind of layer: none lacks a kernel, or rounds where the others don't."""
    batches = {"gradient_accumulation_steps": 2, "num_hidden_layers": 2, "max_steps": 3}
    cases = {
        (precision, model): {"model_name_or_path": CAPABILITIES[model], **batches, **options}
        for precision, options, models in (
            ("bf16", BF16, QUICK_MODELS),
            ("fp16", FP16, ("Bloom-176B", "ChatGLM-6B")),
            ("bf16, O1", {"bf16": True}, ("Qwen3",)),
            ("fp16, O1", {"fp16": True}, ("GPT3",)),
        )
        for model in models
    }
    expected = train(folder, "cpu", 1, cases, {})
    actual = train(folder, DEVICE, 1, cases, device_environment)
    for case, steps in actual.items():
        off = difference(expected[case], steps)
        assert off["loss"] <= 1e-3, (case, off)
        assert off["global_norm"] <= 5e-3, (case, off)
