"""Attention shared by ranks, by heads and round a ring, is attention."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import paddle
import pytest

from llm_pretrain.ops import random_bits
from tests.launching import run_job
from tests.ops import formulas
from tests.parallel.attention_cases import CASES, LENGTH, PLACE, SAMPLES, SEED, Case

WORKER = Path(__file__).with_name("attention_worker.py")


def expected(case: Case) -> dict[str, np.ndarray]:
    """Output and gradients of whole samples, by the formula in float64."""
    slopes = np.zeros(case.heads) if case.slopes is None else case.slopes
    bias = formulas.attention_bias(LENGTH, slopes, case.prefix_ends, case.document_starts)
    numbers_BS = random_bits.numbers(SEED, PLACE, np.array(SAMPLES), np.arange(LENGTH))
    rows = random_bits.numbers_of_heads(paddle.to_tensor(numbers_BS), np.arange(case.heads))
    kept = random_bits.keep(rows, np.arange(LENGTH), case.dropout).numpy() / (1 - case.dropout)
    *operands, gradient = (
        paddle.to_tensor(array.astype(np.float32)).astype(case.dtype).astype("float64")
        for array in case.arrays()
    )
    for operand in operands:
        operand.stop_gradient = False
    output = formulas.attention(*operands, bias, kept)
    output.backward(gradient)
    results = [output, *(operand.grad for operand in operands)]
    return {name: x.numpy() for name, x in zip("oqkv", results, strict=True)}


@pytest.mark.parametrize("degrees", ["sep2", "context4", "tensor2-context2", "tensor2-sep2"])
def test_equals_the_formula(degrees: str, tmp_path: Path) -> None:
    processes = math.prod(int(part[-1]) for part in degrees.split("-"))
    run_job(WORKER, tmp_path, degrees, processes=processes, log_dir=tmp_path / "log")
    for name, case in CASES.items():
        ranks = [np.load(tmp_path / f"{name}.{rank}.npz") for rank in range(processes)]
        tolerance = 1e-5 if case.dtype == "float32" else 2e-2
        for which, whole in expected(case).items():
            joined = np.zeros_like(whole)
            for rank in ranks:
                first, end = rank["queries" if which in "oq" else "keys"]
                joined[:, rank["positions"], first:end] += rank[which]
            error = np.abs(joined - whole).max() / np.abs(whole).max()
            assert error < tolerance, f"{name}: {which}"
