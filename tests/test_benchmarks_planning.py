"""benchmarks/planning.py: what it predicts of other programs, against what they published."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

from peer_traces import megatron  # noqa: E402
from peer_traces.clusters import machine_of, published  # noqa: E402
from peer_traces.peer_run import read_run  # noqa: E402
from peer_traces.prediction import MIB, predict  # noqa: E402
from peer_traces.report import model_flops, spearman  # noqa: E402
from peer_traces.steps import record  # noqa: E402
from peer_traces.tape import Tape, Weight, elementwise, linear  # noqa: E402

from llm_pretrain.config import ConfigError  # noqa: E402
from llm_pretrain.planning.allocator import replay  # noqa: E402
from llm_pretrain.planning.trace import Allocation, Product, Release  # noqa: E402

# The goal is 2 % of speed and 3 % of memory. Of the two models of 13B the allocator holds more
# than is found: docs/planning_published.md.
MEMORY_BOUNDS = {
    "facebook/llama-7b": 3.0,
    "facebook/llama-13b": 5.0,
    "baichuan-inc/Baichuan2-7B-Base": 3.0,
    "linly-ai/chinese-llama-2-7b": 3.0,
    "idea-ccnl/ziya-llama-13b-v1": 4.0,
}


@pytest.mark.parametrize("name", MEMORY_BOUNDS)
def test_paddlenlp_is_predicted(name: str) -> None:
    row = next(row for row in published() if row.name == name)
    found = predict(row.program, row.run(), machine_of(row.program, row.gpu))
    assert found.memory is not None
    assert row.reserved_mib is not None
    speed = row.tokens_per_second_per_device
    assert found.tokens_per_second_per_device == pytest.approx(speed, rel=0.02)
    bound = MEMORY_BOUNDS[name] / 100
    assert found.memory.reserved / MIB == pytest.approx(row.reserved_mib, rel=bound)


def test_nothing_is_fitted_to_rows_that_differ() -> None:
    """Recomputation, ALiBi, no tensor parallelism; the number is that of another row."""
    row = next(row for row in published() if row.name == "baichuan-inc/Baichuan2-13B-Base")
    found = predict(row.program, row.run(), machine_of(row.program, row.gpu))
    assert found.memory is not None
    assert row.reserved_mib is not None
    speed = row.tokens_per_second_per_device
    assert found.tokens_per_second_per_device == pytest.approx(speed, rel=0.08)
    assert found.memory.reserved / MIB == pytest.approx(row.reserved_mib, rel=0.03)


def test_the_step_times_of_megatron() -> None:
    rows = [row for row in published() if row.table == "megatron"]
    assert len(rows) == 8
    for row in rows:
        machine = machine_of(row.program, row.gpu)
        found = predict(row.program, row.run(), machine, with_memory=False)
        speed = row.tokens_per_second_per_device
        assert found.tokens_per_second_per_device == pytest.approx(speed, rel=0.1), row.name


def _activations(words: str, layers: int) -> int:
    run = read_run(
        f"--model_name_or_path gpt3-13B-en --do_train --max_steps 1 --fp16 --fp16_opt_level O2 "
        f"--hidden_size 1024 --intermediate_size 4096 --num_attention_heads 16 --vocab_size 128 "
        f"--max_seq_length 512 --per_device_train_batch_size 2 --tensor_parallel_degree 4 "
        f"--num_hidden_layers {layers} {words}".split(),
        4,
    )
    peak = replay(record(megatron.Step(run), micro_batches=1))
    return peak.parts["activations"]


@pytest.mark.parametrize(
    ("words", "units"),
    [
        ("", 10 + 24 / 4 + 5 * 16 * 512 / (1024 * 4)),
        ("--sequence_parallel", (34 + 5 * 16 * 512 / 1024) / 4),
        ("--sequence_parallel --recompute --recompute_granularity core_attn", 34 / 4),
    ],
    ids=["tensor parallel", "sequence parallel", "selective recompute"],
)
def test_a_layer_of_megatron_keeps_what_its_paper_says(words: str, units: float) -> None:
    """Table 2 of arXiv:2205.05198, in bytes per token and hidden unit."""
    layer = _activations(words, 3) - _activations(words, 2)
    assert layer == pytest.approx(2 * 512 * 1024 * units, rel=0.01)


def test_a_checkpoint_keeps_its_input_and_computes_again() -> None:
    def run(*, keeps: bool) -> list[Any]:
        tape = Tape(lambda weight, gradient: None, "bfloat16")
        weight = Weight("weight", 16)

        def layer(value: Any) -> Any:
            value = linear(tape, value, 4, weight, 4, 4)
            return elementwise(tape, "gelu", [value], saves=[value])

        value = tape.value(32)
        value.needs_gradient = True
        result = layer(value) if keeps else tape.checkpoint(layer, value)
        nodes = tape.take_nodes()
        gradient = tape.value(32)
        del value
        tape.play_backward(nodes, gradient)
        del gradient, nodes, result
        return tape.events

    for keeps, products in ((True, 3), (False, 4)):
        events = run(keeps=keeps)
        assert sum(isinstance(event, Product) for event in events) == products
        taken = {event.number for event in events if isinstance(event, Allocation)}
        given = [event.number for event in events if isinstance(event, Release)]
        assert sorted(given) == sorted(taken)


def test_flops_are_those_of_the_parameters() -> None:
    row = next(row for row in published() if row.name == "facebook/llama-7b")
    linear_parameters = 32 * (4 * 4096**2 + 3 * 4096 * 11008) + 32000 * 4096
    attention = 6 * 32 * 4096 * 4096
    assert model_flops(row.run()) == 6 * linear_parameters + attention


def test_rank_correlation() -> None:
    assert spearman([1, 2, 3, 4], [10, 20, 30, 40]) == 1
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == -1
    assert spearman([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx(0.8)


def test_one_prediction_is_printed() -> None:
    command = [sys.executable, "benchmarks/planning.py"]
    config = "configs/llama/pretrain-llama_7b-tp2sd4_stage2.json"
    words = ["--program", "paddlenlp", "--gpu", "a100-80g", "--gpus", "8", "--json"]
    keys = ["--num_hidden_layers", "2", "--gradient_accumulation_steps", "1"]
    result = subprocess.run(
        [*command, config, *words, *keys],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    content = json.loads(result.stdout)
    assert content["tokens_per_second_per_device"] > 0
    assert content["max_memory_reserved_mib"] >= content["max_memory_allocated_mib"] > 0
    wrong = subprocess.run(
        [*command, config, *words, "--tensor_parallel_degree", "3"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert wrong.returncode == 1
    assert "tensor_parallel_degree" in wrong.stderr


def test_what_a_model_has_not_is_refused() -> None:
    row = next(row for row in published() if row.name == "facebook/llama-7b")
    config = str(ROOT / "configs/llama/pretrain-llama_7b-tp2sd4_stage2.json")
    run = read_run([config, "--sharding", "stage3"], 8)
    with pytest.raises(ConfigError, match="sharding stage3: the model of paddlenlp hasn't it"):
        predict(row.program, run, machine_of(row.program, row.gpu))
