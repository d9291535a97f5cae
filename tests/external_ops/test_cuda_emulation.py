"""The CUDA kernels on an emulated device (external_ops/gpu/emulation), against float64."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KERNELS = ROOT / "external_ops/csrc/cuda"
SANITIZERS = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
BARRIER = "__syncthreads();\n"


def build(folder: Path, sources: Path = KERNELS, flags: tuple[str, ...] = ()) -> Path:
    """The kernels as a library for the CPU."""
    includes = [f"-I{ROOT / 'external_ops/gpu/emulation'}", f"-I{sources}"]

    def compiled(source: Path) -> str:
        target = str(folder / f"{source.stem}.o")
        options = ["-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", *includes, *flags]
        subprocess.run(["g++", "-x", "c++", *options, "-c", str(source), "-o", target], check=True)
        return target

    with ThreadPoolExecutor(max_workers=2) as pool:
        objects = list(pool.map(compiled, sorted(sources.glob("*.cu"))))
    library = folder / "libllm_ops.so"
    subprocess.run(["g++", "-shared", *flags, *objects, "-o", str(library)], check=True)
    return library


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
def test_every_kernel_is_right_on_random_shapes(transformers_python: Path, tmp_path: Path) -> None:
    run = run_checks(transformers_python, build(tmp_path), "--seeds", "2")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "attention: 6 cases" in run.stdout


@pytest.mark.peer_transformers
def test_a_forgotten_barrier_is_noticed(transformers_python: Path, tmp_path: Path) -> None:
    """The emulation is no good if a kernel that races passes its checks."""
    sources = tmp_path / "cuda"
    sources.mkdir()
    for path in KERNELS.iterdir():
        (sources / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    kernel = sources / "flash_attention_forward.cu"
    before, _, after = kernel.read_text(encoding="utf-8").rpartition(BARRIER)
    assert before
    kernel.write_text(before + after, encoding="utf-8")
    options = ("--seeds", "1", "--only", "attention")
    run = run_checks(transformers_python, build(tmp_path, sources), *options)
    assert run.returncode == 1
    assert "attention, seed 0: y " in run.stdout


@pytest.mark.slow
@pytest.mark.peer_transformers
def test_the_kernels_stay_within_their_tensors(transformers_python: Path, tmp_path: Path) -> None:
    """No access outside a tensor, none that isn't aligned, no undefined arithmetic."""
    library = build(tmp_path, flags=SANITIZERS)
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
