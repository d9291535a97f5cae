"""benchmarks/ops.py: the work that it takes for the least, and a run with small sizes."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
# PyTorch waits long for its threads where other tests keep the cores busy.
TIME_LIMIT = 600


@pytest.fixture(scope="module")
def ops_work() -> ModuleType:
    path = ROOT / "benchmarks" / "ops_work.py"
    spec = importlib.util.spec_from_file_location("ops_work", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_roofline_is_that_of_products_or_of_memory(ops_work: ModuleType) -> None:
    bandwidths = {1 << 20: 1e9, 1 << 30: 1e8}
    # A million numbers are 4 MB: that of the small array counts.
    work = ops_work.Work(flops=2e9, numbers=1e6)
    assert work.least_seconds("float32", 1e9, bandwidths) == 2
    assert work.least_seconds("float32", 1e12, bandwidths) == pytest.approx(4e-3)
    assert work.least_seconds("bfloat16", 1e12, bandwidths) == pytest.approx(2e-3)
    large = ops_work.Work(flops=0, numbers=1e9)
    assert large.least_seconds("float32", 1e9, bandwidths) == pytest.approx(40)


def test_the_work_of_linear_maps_is_six_operations_per_token_and_weight(
    ops_work: ModuleType,
) -> None:
    works = ops_work.works(ops_work.SIZES["base"])
    for inputs, outputs in ((768, 2304), (768, 4096), (2048, 768), (768, 32_000)):
        name = f"linear {inputs} × {outputs}" if outputs < 32_000 else "linear + cross entropy"
        flops = sum(work.flops for work in works[name].values())
        assert flops == 6 * 1024 * inputs * outputs


@pytest.mark.slow
@pytest.mark.peer_transformers
def test_the_benchmark_of_operators_runs(
    ops_work: ModuleType, transformers_python: Path, tmp_path: Path
) -> None:
    script, figures = ROOT / "benchmarks" / "ops.py", tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, script, "--rounds", "1", "--sizes", "tiny", "--json", figures],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "LLM_PRETRAIN_TRANSFORMERS_PYTHON": str(transformers_python),
        },
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = json.loads(figures.read_text(encoding="utf-8"))["operators"]
    measured = {(line["operator"], line["dtype"], line["name"]) for line in lines}
    assert measured == {
        (operator, dtype, name)
        for operator, passes in ops_work.works(ops_work.SIZES["tiny"]).items()
        for dtype in ops_work.dtypes(operator)
        for name in passes
    }
    for line in lines:
        assert min(*line["ours"], *line["theirs"], line["least"]) > 0, line
    assert "| causal attention | bfloat16 | backward |" in done.stdout
