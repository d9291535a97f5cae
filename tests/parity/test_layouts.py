"""Every layout gives the loss and the gradient norm of one process, step by step.

One process is the control. All start from the same values, which a tensor's name and the seed
decide, and read the same samples: where fewer ranks read data, they take more micro-batches. A
launch trains all models in all cells of its layout.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_pretrain.models.families import CAPABILITIES
from tests.launching import logged
from tests.parity import results
from tests.parity.grid import BF16, SAMPLES, Run, launches
from tests.parity.one_launch import launch
from tests.small_runs import write_data

TOLERANCE = 1e-5
STEPS = 20
METRICS = ("loss", "global_norm", "eval_loss")

Steps = list[dict[str, Any]]
Seeds = tuple[str, ...]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parity")
    write_data(folder / "data")
    return folder


def train(
    folder: Path, name: str, processes: int, runs: list[tuple[str, dict[str, Any]]]
) -> list[Steps]:
    """Train (seed of a model, options) one after another in one launch; what each logged."""
    evaluation = {"do_eval": True, "eval_steps": STEPS // 2, "eval_iters": 1}
    cases = {
        f"{number}": {
            "model_name_or_path": seed,
            "max_steps": STEPS,
            **evaluation,
            **options,
        }
        for number, (seed, options) in enumerate(runs)
    }
    outputs = launch(folder, name, cases, processes).values()
    return [logged(output) + logged(output, "evaluation") for output in outputs]


def control_options(layers: int, micro_batches: int, **options: Any) -> dict[str, Any]:
    """Those of one process, which takes all micro-batches."""
    return {
        "num_hidden_layers": layers,
        "gradient_accumulation_steps": micro_batches,
        "per_device_train_batch_size": SAMPLES // micro_batches,
        "per_device_eval_batch_size": SAMPLES,
        **options,
    }


class Controls:
    """Runs on one process, made when they are first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @functools.cache  # noqa: B019
    def exact(self, seeds: Seeds, layers: int, micro_batches: int) -> dict[str, Steps]:
        """The models in fp32."""
        options = control_options(layers, micro_batches)
        name = f"one-{len(seeds)}-{layers}-{micro_batches}"
        found = train(self.folder, name, 1, [(seed, options) for seed in seeds])
        for seed, steps in zip(seeds, found, strict=True):
            assert steps[STEPS - 1]["loss"] < 0.98 * steps[0]["loss"], f"{seed} has learned nothing"
        return dict(zip(seeds, found, strict=True))

    @functools.cache  # noqa: B019
    def rounded(self, seeds: Seeds, layers: int, micro_batches: int) -> dict[str, list[Steps]]:
        """The models in bf16, in ways that differ in the order of sums alone."""
        fused = {"fuse_attention_qkv": True, "fuse_attention_ffn": True}
        plain = {"use_flash_attention": False}
        ways: list[dict[str, Any]] = [
            {},
            plain,
            fused,
            {"use_fused_rms_norm": False, "use_fused_rope": False, **fused},
            {"use_fused_linear_cross_entropy": False, "use_fused_rms_norm": False, **plain},
        ]
        runs = [
            (seed, control_options(layers, micro_batches, **BF16, **way))
            for seed in seeds
            for way in ways
        ]
        found = train(self.folder, f"one-bf16-{len(seeds)}-{layers}-{micro_batches}", 1, runs)
        count = len(ways)
        return {seed: found[count * n : count * (n + 1)] for n, seed in enumerate(seeds)}


@pytest.fixture(scope="module")
def controls(folder: Path) -> Controls:
    return Controls(folder)


def differences(expected: Steps, actual: Steps) -> Iterator[tuple[int, str, float]]:
    """(step, metric, relative difference) of two runs."""
    assert len(expected) == len(actual) == STEPS + 2
    for one, other in zip(expected, actual, strict=True):
        for metric in METRICS:
            if metric in one:
                relative = abs(one[metric] - other[metric]) / abs(one[metric])
                yield one["global_step"], metric, relative


def spread(runs: list[Steps]) -> dict[str, float]:
    """The largest relative difference of each metric among runs that differ in rounding alone."""
    largest = dict.fromkeys(METRICS, 0.0)
    for one, other in itertools.combinations(runs, 2):
        for _, metric, relative in differences(one, other):
            largest[metric] = max(largest[metric], relative)
    # Both are losses, and two evaluations of a run tell little of their spread.
    largest["eval_loss"] = max(largest["eval_loss"], largest["loss"])
    return largest


def train_and_compare(name: str, runs: list[Run], folder: Path, controls: Controls) -> None:
    seeds = tuple(sorted({CAPABILITIES[model] for model, _ in runs}))
    found = train(
        folder,
        name,
        runs[0][1].layout.processes,
        [(CAPABILITIES[model], {**cell.layout.options, **cell.options}) for model, cell in runs],
    )
    passed, failed = [], []
    for (model, cell), steps in zip(runs, found, strict=True):
        seed, control = CAPABILITIES[model], (seeds, cell.layout.layers, cell.layout.micro_batches)
        if cell.is_exact:
            expected = controls.exact(*control)[seed]
            tolerance = dict.fromkeys(METRICS, TOLERANCE)
        else:
            rounded = controls.rounded(*control)[seed]
            expected = rounded[0]
            # Twice: another run of the kind may lie as far out on the other side.
            tolerance = {metric: 2 * largest for metric, largest in spread(rounded).items()}
        wrong = [
            f"{model}, {cell.column} {cell.options}, step {step}, {metric}: off by {relative:.2g}"
            for step, metric, relative in differences(expected, steps)
            if not relative <= tolerance[metric]
        ]
        failed += wrong[:1]
        passed += [] if wrong else [(model, cell)]
    results.record(name, passed)
    assert not failed, "\n".join(failed)


QUICK, OTHERS = launches(quick=True), launches(quick=False)


@pytest.mark.parametrize("layout", QUICK)
def test_equals_one_process(layout: str, folder: Path, controls: Controls) -> None:
    train_and_compare(layout, QUICK[layout], folder, controls)


@pytest.mark.slow
@pytest.mark.parametrize("layout", OTHERS)
def test_equals_one_process_in_full(layout: str, folder: Path, controls: Controls) -> None:
    train_and_compare(f"{layout}-full", OTHERS[layout], folder, controls)
