"""What is reckoned from few blocks and few micro-batches is what all of them hold."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.launching import ROOT
from tests.small_runs import small_config, write_config, write_model

SCRIPT = """
import json, sys
from dataclasses import replace
from llm_pretrain.config import load_run_config, resolve_degrees
from llm_pretrain.planning.layouts import layout_of, stage_rank
from llm_pretrain.planning.machines import load_machine
from llm_pretrain.planning.memory import last_step_begins, moments
from llm_pretrain.planning.prediction import StagePredictor
from llm_pretrain.planning.program import ThisProgram
from llm_pretrain.training.preflight import model_config_of

run = load_run_config(sys.argv[1])
degrees = resolve_degrees(run.training, int(sys.argv[2]))
model = replace(model_config_of(run), num_hidden_layers=int(sys.argv[3]))
program = ThisProgram(sys.argv[4])
predictor = StagePredictor(run, model, load_machine("a100-80g"), program)
for stage in range(degrees.pipeline):
    few = predictor.stage(layout_of(run, degrees), stage).memory
    rank = stage_rank(degrees, run.training.hybrid_parallel_topo_order, stage)
    trace = program.trace(run, model, degrees, rank, steps=2)
    whole = max(moments(trace, begin=last_step_begins(trace)), key=lambda memory: memory.bytes)
    print(json.dumps([few.bytes, whole.bytes, few.parts, whole.parts]))
"""


@pytest.mark.parametrize(
    ("processes", "layers", "device", "options"),
    [
        (1, 11, "cpu", {}),
        (1, 11, "gpu", {"recompute": True, "bf16": True, "fp16_opt_level": "O2"}),
        (2, 11, "gpu", {"sharding": "stage3"}),
        (2, 19, "cpu", {"pipeline_parallel_degree": 2}),
        (2, 32, "gpu", {"pipeline_parallel_degree": 2, "virtual_pp_degree": 2}),
        (8, 8, "gpu", {"pipeline_parallel_degree": 8, "gradient_accumulation_steps": 12}),
        (
            *(4, 24, "gpu"),
            {
                "pipeline_parallel_degree": 4,
                "virtual_pp_degree": 6,
                "gradient_accumulation_steps": 16,
            },
        ),
    ],
)
def test_few_blocks_tell_the_memory_of_many(
    tmp_path: Path, processes: int, layers: int, device: str, options: dict[str, Any]
) -> None:
    model = write_model(tmp_path / "model")
    config = small_config(model, tmp_path, tmp_path / "out", **options)
    path = write_config(tmp_path / "config.json", config)
    arguments = [str(path), str(processes), str(layers), device]
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    stages = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(stages) == max(options.get("pipeline_parallel_degree", 1), 1)
    for predicted, whole, predicted_parts, whole_parts in stages:
        assert predicted == whole
        assert {k: v for k, v in predicted_parts.items() if v} == {
            k: v for k, v in whole_parts.items() if v
        }
