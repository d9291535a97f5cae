"""What can be known of the CUDA kernels without a GPU: they compile, and their library loads."""

from __future__ import annotations

import ctypes
import importlib.util
import re
import shutil
import subprocess
from ctypes import c_int, c_int64, c_void_p
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "external_ops/csrc"
KERNELS = [path.stem for path in sorted((SOURCES / "cuda").glob("*.cu")) if path.stem != "status"]


@pytest.fixture(scope="module")
def nvcc() -> Path:
    found = shutil.which("nvcc")
    if found is None:
        pytest.skip("nvcc is not there; CI has it")
    return Path(found)


@pytest.fixture(scope="module")
def toolkit(nvcc: Path) -> Path:
    """The folder of CUDA's headers."""
    plan = subprocess.run(
        [nvcc, "--dryrun", "-x", "cu", "-c", "/dev/null"], capture_output=True, text=True
    )
    top = re.search(r"TOP=(\S+)", plan.stderr)
    assert top is not None, plan.stderr
    return next(Path(top[1]).glob("targets/*-linux/include"))


@pytest.fixture(scope="module")
def library(nvcc: Path) -> Path:
    """What `make gpu-build` builds, for the two architectures."""
    subprocess.run(["make", "gpu-build", f"NVCC={nvcc}"], cwd=ROOT, check=True)
    return ROOT / "external_ops/build/cuda/libllm_ops.so"


def declared() -> set[str]:
    """The functions of llm_ops.h."""
    header = (SOURCES / "cuda/llm_ops.h").read_text(encoding="utf-8")
    functions = set(re.findall(r"^[\w ]+[ *](llm_ops_\w+)\(", header, re.MULTILINE))
    assert len(functions) > 15
    return functions


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_kernel_has_code_for_both_architectures(library: Path, kernel: str) -> None:
    code = (library.parent / f"{kernel}.o").read_bytes()
    architectures = set(re.findall(rb"sm_\d+a?", code))
    assert architectures >= {b"sm_80", b"sm_90a"}


def test_the_library_has_what_its_header_declares(library: Path) -> None:
    functions = ctypes.CDLL(str(library))
    assert not [name for name in declared() if not hasattr(functions, name)]


def test_bad_shapes_are_refused_before_a_device_is_needed(library: Path) -> None:
    functions = ctypes.CDLL(str(library))
    functions.llm_ops_error_string.restype = ctypes.c_char_p
    labels = c_void_p(None)
    status = functions.llm_ops_cross_entropy_begin(c_int64(-1), *[labels] * 4)
    assert b"a shape is negative" in functions.llm_ops_error_string(status)
    status = functions.llm_ops_cross_entropy_begin(c_int64(1), *[labels] * 4)
    assert b"NULL" in functions.llm_ops_error_string(status)
    assert b"not a status" in functions.llm_ops_error_string(c_int(99))


def test_paddles_binding_agrees_with_paddles_headers(toolkit: Path, tmp_path: Path) -> None:
    """Compiled as where Paddle has CUDA; to link it, such a Paddle is needed."""
    paddle = importlib.util.find_spec("paddle")
    assert paddle is not None
    headers = Path(str(paddle.origin)).parent / "include"
    compatible = headers / "paddle/phi/api/include/compat"
    folders = [headers, headers / "third_party", compatible, compatible / "torch/csrc/api/include"]
    # CUDA 13 keeps Thrust in a folder of its own, which nvcc knows and g++ doesn't.
    folders += [toolkit, toolkit / "cccl", SOURCES / "cuda", SOURCES / "paddle_cuda"]
    subprocess.run(
        ["g++", "-std=c++17", "-c", "-fPIC", "-Wall", "-DPADDLE_WITH_CUDA"]
        + [f"-isystem{folder}" for folder in folders]
        + [str(SOURCES / "paddle_cuda/binding.cc"), "-o", str(tmp_path / "binding.o")],
        check=True,
    )
    symbols = subprocess.check_output(["nm", "-C", str(tmp_path / "binding.o")], text=True)
    bound = set(re.findall(r" U (llm_ops_\w+)", symbols))
    assert declared() - bound == {"llm_ops_interface"}, "an operator is not bound"


def test_without_a_gpu_the_targets_say_what_they_need() -> None:
    run = subprocess.run(
        ["make", "gpu-test", "GPU_PYTHON=false"], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode != 0
    assert "the PyTorch of false sees no GPU" in run.stderr


def test_without_nvcc_the_build_says_so() -> None:
    run = subprocess.run(
        ["make", "-B", "gpu-build", "NVCC=no-nvcc"], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode != 0
    assert "no-nvcc is not there" in run.stderr
