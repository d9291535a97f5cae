"""A step is traced without Paddle, any rank of any layout, and nothing of Paddle is guessed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.launching import ROOT
from tests.small_runs import small_config, write_config, write_model

_LOAD = """
import sys
from llm_pretrain.config import load_run_config, resolve_degrees
from llm_pretrain.planning.program import trace_step
from llm_pretrain.planning.trace import *
from llm_pretrain.training.preflight import model_config_of

def trace(processes, rank, **options):
    run = load_run_config(sys.argv[1])
    degrees = resolve_degrees(run.training, processes)
    return trace_step(run, model_config_of(run), degrees, rank, **options).events
"""


@pytest.fixture
def run(tmp_path: Path) -> Any:
    def run(script: str, **options: Any) -> subprocess.CompletedProcess[str]:
        model = write_model(tmp_path / "model")
        config = small_config(
            model, tmp_path, tmp_path / "out", gradient_accumulation_steps=2, **options
        )
        path = write_config(tmp_path / "config.json", config)
        return subprocess.run(
            [sys.executable, "-c", _LOAD + script, str(path)],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )

    return run


@pytest.mark.parametrize("in_slices", [True, False])
def test_the_z_loss_is_traced(run: Any, in_slices: bool) -> None:
    options = {"z_loss_coefficient": 1e-4, "use_fused_linear_cross_entropy": in_slices}
    result = run("print(len(trace(2, 0, steps=1)))", tensor_parallel_degree=2, **options)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 0


def test_a_trace_needs_no_paddle_and_counts_every_product(run: Any) -> None:
    result = run("""
events = trace(1, 0, steps=1)
assert "paddle.base.libpaddle" not in sys.modules
flops = sum(2 * p.count * p.rows * p.inner * p.columns for p in events if isinstance(p, Product))
print(flops)
""")
    assert result.returncode == 0, result.stderr
    # Of 4 blocks and the head, whose logits are computed again: 64 wide, 32 keys, 128 between.
    block, head = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128, 64 * 128
    tokens = 2 * 2 * 32
    assert int(result.stdout) == 2 * tokens * (3 * 4 * block + 4 * head)


def test_what_a_step_takes_is_given_back(run: Any) -> None:
    result = run("""
held = {}
for event in trace(1, 0):
    if isinstance(event, Allocation):
        held[event.number] = event
    elif isinstance(event, Release):
        del held[event.number]
print(*sorted(event.part for event in held.values()))
""")
    assert result.returncode == 0, result.stderr
    # Of matrices and of vectors what buckets hold; the cosines and sines of positions.
    kept = ["activations", "activations", "gradients", "gradients", "weights", "weights"]
    assert result.stdout.split() == kept


def test_weights_gradients_and_states_are_told_apart(run: Any) -> None:
    result = run(
        """
from llm_pretrain.planning.memory import fullest
parts = fullest(Trace(trace(1, 0, device="gpu"))).parts
print(parts["weights"], parts["gradients"], parts["optimizer"])
""",
        bf16=True,
        fp16_opt_level="O2",
        amp_master_grad=True,
    )
    assert result.returncode == 0, result.stderr
    weights, gradients, states = map(int, result.stdout.split())
    count = gradients // 4
    assert states == 12 * count
    assert weights == 2 * count


def test_what_ranks_send_is_told_by_axis(run: Any) -> None:
    result = run(
        """
found = {(e.kind, e.axis, e.ranks) for e in trace(4, 3) if isinstance(e, Message)}
print(sorted(found))
""",
        tensor_parallel_degree=2,
        sharding="stage2",
    )
    assert result.returncode == 0, result.stderr
    found = ast.literal_eval(result.stdout)
    assert ("reduce-scatter", "sharding", 2) in found
    assert ("all-gather", "sharding", 2) in found
    assert ("all-reduce", "tensor", 2) in found
    assert all(axis in ("sharding", "tensor") for _, axis, _ in found)


def test_what_is_unknown_is_refused_by_name(run: Any) -> None:
    result = run("""
from llm_pretrain.planning import shapes
shapes.install()
import paddle
for unknown in (lambda: paddle.fft, lambda: paddle.zeros([1]).cumsum(0)):
    try:
        unknown()
    except NotImplementedError as error:
        print(error)
""")
    assert result.returncode == 0, result.stderr
    assert "knows no paddle.fft" in result.stdout
    assert "knows no Tensor.cumsum" in result.stdout


def test_a_process_that_has_paddle_is_refused(run: Any) -> None:
    result = run("import paddle\ntrace(1, 0)\n")
    assert result.returncode != 0
    assert "a process that trains can't trace with shapes" in result.stderr
