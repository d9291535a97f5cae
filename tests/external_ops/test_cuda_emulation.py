"""The CUDA kernels on an emulated device (external_ops/gpu/emulation), against float64."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.external_ops.emulated_kernels import KERNELS, ROOT, all_compiled, compiled

SANITIZERS = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def linked(objects: list[Path], folder: Path, *flags: str) -> Path:
    library = folder / "libllm_ops.so"
    subprocess.run(["g++", "-shared", *flags, *objects, "-o", library], check=True)
    return library


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return all_compiled(tmp_path_factory.mktemp("kernels"))


def run_checks(
    python: Path, library: Path, *options: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, ROOT / "external_ops/gpu/check.py", library, "--emulated", *options],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.peer_transformers
def test_every_kernel_is_right_on_random_shapes(
    transformers_python: Path, objects: list[Path], tmp_path: Path
) -> None:
    run = run_checks(transformers_python, linked(objects, tmp_path), "--seeds", "2")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "attention: 6 cases" in run.stdout


@pytest.mark.peer_transformers
@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("statement", ["__syncthreads();", "wait_for_copies();"])
def test_a_forgotten_barrier_is_noticed(
    transformers_python: Path, objects: list[Path], tmp_path: Path, statement: str, number: int
) -> None:
    """The emulation is no good if a kernel that races passes its checks."""
    name = "flash_attention_forward"
    parts = (KERNELS / f"{name}.cu").read_text(encoding="utf-8").split(statement)
    assert len(parts) == 3
    parts[number] += parts.pop(number + 1)
    damaged = tmp_path / f"{name}.cu"
    damaged.write_text(statement.join(parts), encoding="utf-8")
    others = [path for path in objects if path.stem != name]
    library = linked([*others, compiled(damaged, tmp_path)], tmp_path)
    run = run_checks(transformers_python, library, "--seeds", "2", "--only", "attention")
    assert run.returncode == 1
    assert "attention, seed" in run.stdout


@pytest.mark.slow
@pytest.mark.peer_transformers
def test_the_kernels_stay_within_their_tensors(transformers_python: Path, tmp_path: Path) -> None:
    """No access outside a tensor, none that isn't aligned, no undefined arithmetic."""
    library = linked(all_compiled(tmp_path, *SANITIZERS), tmp_path, *SANITIZERS)
    runtimes = [
        subprocess.check_output(["g++", f"-print-file-name=lib{name}.so"], text=True).strip()
        for name in ("asan", "ubsan")
    ]
    # Kernels' threads have stacks of their own, of which the sanitizer knows nothing.
    options = "detect_leaks=0:detect_stack_use_after_return=0"
    run = run_checks(
        transformers_python, library, "--seeds", "2",
        LD_PRELOAD=" ".join(runtimes), ASAN_OPTIONS=options,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
