"""The paths of a GPU, on an emulated device that claims to be one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.emulated_device.claimed_gpu import NAME, gpu_environment
from tests.emulated_device.compile_plugin import compiler
from tests.launching import ROOT, logged, run_job
from tests.small_runs import small_config, write_config, write_data, write_model

pytestmark = pytest.mark.slow
WORKER = ROOT / "tests" / "emulated_device" / "claimed_gpu.py"
OPERATORS = WORKER.with_name("operators_on_claimed_gpu.py")
OURS = ("norm", "rotary", "activation", "linear_cross_entropy", "adamw")
"""Those that have kernels of ours in float32."""


@pytest.fixture(scope="module")
def gpu() -> dict[str, str]:
    if compiler() is None:
        pytest.skip("no C++ compiler for the emulated device (CXX or g++)")
    return gpu_environment(with_operators=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu")
    write_data(folder / "data")
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 64}
    write_model(folder / "model", num_hidden_layers=1, **heads)
    return folder


def trained(
    folder: Path,
    name: str,
    environment: dict[str, str],
    *,
    processes: int = 1,
    **options: Any,
) -> tuple[str, list[dict[str, Any]]]:
    """What a run says, and its steps."""
    config = small_config(
        folder / "model",
        folder / "data",
        folder / options.pop("output", name),
        **{"device": "gpu", "max_steps": 2, "gradient_accumulation_steps": 1, **options},
    )
    text = run_job(
        WORKER,
        write_config(folder / f"{name}.json", config),
        processes=processes,
        log_dir=folder / f"log-{name}",
        environment=environment,
    )
    return text, logged(Path(config["output_dir"]))


def losses(steps: list[dict[str, Any]]) -> list[float]:
    return [step[metric] for step in steps for metric in ("loss", "global_norm")]


def test_two_gpus_train_as_two_cpus_and_report_what_gpus_do(
    folder: Path, gpu: dict[str, str]
) -> None:
    """By the references, which are faster on one of the two, with the CPU's numbers to the bit."""
    options = {"processes": 2, "tensor_parallel_degree": 2}
    text, steps = trained(folder, "gpus", {**gpu, "CLAIMED_GPU_CLOCK": "differing"}, **options)
    _, expected = trained(folder, "cpus", {"LLM_PRETRAIN_OPS_ISA": "none"}, device="cpu", **options)
    assert "Operators by CUDA" not in text
    for name in OURS:
        assert re.search(rf"^Operators by reference: .*\b{name}\b.* \(the fastest here", text, re.M)
    assert losses(steps) == losses(expected)
    for step in steps:
        assert 0 < step["current_memory_allocated"] <= step["current_memory_reserved"]
        assert step["current_memory_allocated"] <= step["max_memory_allocated"] < 64
        assert step["mfu"] > 0
    assert "max_memory_reserved" not in expected[0]
    record = json.loads((folder / "gpus" / "run.json").read_text())
    assert record["machine"]["device"] == NAME


@pytest.mark.parametrize("level", [None, "O1"])
def test_our_operators_train_through_their_binding(
    folder: Path, gpu: dict[str, str], level: str | None
) -> None:
    options = {"bf16": True, "fp16_opt_level": level} if level else {}
    ours = {*OURS, "attention"} if level else set(OURS)
    text, steps = trained(folder, f"ours-{level}", gpu, **options)
    served = re.findall(r"^Operators by CUDA: ([\w, ]+) \(", text, re.MULTILINE)
    assert {name for names in served for name in names.split(", ")} == ours
    timed = next(line for line in text.splitlines() if line.startswith("Timed on the shapes"))
    assert all(re.search(rf"{name}: CUDA [\d.]+ (ms|µs), reference ", timed) for name in ours)
    rising = {**gpu, "CLAIMED_GPU_CLOCK": "rising"}
    _, expected = trained(folder, f"references-{level}", rising, **options)
    assert losses(steps) == pytest.approx(losses(expected), rel=2e-2 if level else 1e-5)
    assert losses(steps) != losses(expected)


def test_a_resumed_run_keeps_what_was_chosen(folder: Path, gpu: dict[str, str]) -> None:
    """Other operators are faster when it goes on, and it ends as without the break."""
    _, whole = trained(folder, "whole", gpu, max_steps=3)
    trained(folder, "broken", gpu, save_steps=2, save_strategy="steps")
    text, steps = trained(
        folder,
        "resumed",
        {**gpu, "CLAIMED_GPU_CLOCK": "rising"},
        output="broken",
        max_steps=3,
        overwrite_output_dir=False,
    )
    assert "Operators by CUDA: norm" in text
    assert text.count("as in the checkpoint") >= 1
    assert "Changed since checkpoint-2: operator" not in text
    assert losses(steps) == losses(whole)
    # On another micro-batch the times are others.
    text, _ = trained(
        folder,
        "elsewhere",
        {**gpu, "CLAIMED_GPU_CLOCK": "rising"},
        output="broken",
        max_steps=4,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=2,
        overwrite_output_dir=False,
    )
    assert "Changed since checkpoint-2: operator norm: CUDA → reference" in text


def run_operators(what: str, gpu: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(OPERATORS), what],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", **gpu},
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_every_operator_agrees_with_its_reference_on_the_cpu(gpu: dict[str, str]) -> None:
    done = run_operators("examples", gpu)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found["float32"]) == set(OURS)
    assert set(found["bfloat16"]) == set(found["float16"]) == {*OURS, "attention"}
    bounds = {"float32": 1e-5, "bfloat16": 2e-2, "float16": 3e-3}
    for dtype, errors in found.items():
        assert all(error <= bounds[dtype] for error in errors.values()), found
    assert all(error >= 0 for error in found["float32"].values()), found


def test_an_operator_is_queued_on_the_current_stream(gpu: dict[str, str]) -> None:
    """Where nothing makes that wait for what it reads."""
    done = run_operators("other_stream", gpu)
    assert done.returncode == 86, done.stderr
    assert "llm_ops_activation on stream" in done.stderr
    assert "nothing makes one wait for the other" in done.stderr
