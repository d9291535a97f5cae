"""What a job of several processes saves is one model, as transformers loads it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.launching import RUN_PRETRAIN, run_job
from tests.small_runs import small_config, write_config, write_data, write_model

SCRIPT = Path(__file__).with_name("transformers_load.py")


@pytest.mark.peer_transformers
def test_a_model_saved_by_four_processes_loads_whole(
    tmp_path: Path, transformers_python: Path
) -> None:
    write_model(tmp_path / "model")
    write_data(tmp_path / "data")
    tensors = {}
    for name, processes, options in (
        ("one", 1, {}),
        ("four", 4, {"tensor_parallel_degree": 2, "pipeline_parallel_degree": 2}),
    ):
        # Without a learning rate the weights stay what the seed makes them, in any layout.
        config = small_config(
            tmp_path / "model",
            tmp_path / "data",
            tmp_path / name,
            max_steps=1,
            learning_rate=0.0,
            min_learning_rate=0.0,
            weight_decay=0.0,
            fuse_attention_qkv=processes > 1,
            **options,
        )
        path = write_config(tmp_path / f"{name}.json", config)
        run_job(RUN_PRETRAIN, path, processes=processes, log_dir=tmp_path / f"log-{name}")
        out = tmp_path / f"{name}.safetensors"
        subprocess.run([transformers_python, SCRIPT, tmp_path / name, out], check=True)
        tensors[name] = load_file(out)
    assert tensors["one"].keys() == tensors["four"].keys()
    for name, values in tensors["one"].items():
        np.testing.assert_array_equal(values, tensors["four"][name], err_msg=name)
