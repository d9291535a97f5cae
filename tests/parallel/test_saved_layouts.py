"""What a job saves is the model itself: padding, copies and shards leave no trace in its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from tests.launching import RUN_PRETRAIN, run_job
from tests.small_runs import small_config, write_config, write_data, write_model

LAYOUTS: dict[str, dict[str, Any]] = {
    # Two key heads and 130 tokens over four ranks.
    "tensor": {"tensor_parallel_degree": 4, "sequence_parallel": True, "fuse_attention_qkv": True},
    "stage3": {"sharding": "stage3", "pipeline_parallel_degree": 2, "virtual_pp_degree": 2},
}


def saved(tmp_path: Path, name: str, processes: int, **options: Any) -> dict[str, np.ndarray]:
    # Without a learning rate the weights stay what the seed makes them, in any layout.
    config = small_config(
        tmp_path / "model",
        tmp_path / "data",
        tmp_path / name,
        max_steps=1,
        learning_rate=0.0,
        min_learning_rate=0.0,
        weight_decay=0.0,
        **options,
    )
    path = write_config(tmp_path / f"{name}.json", config)
    run_job(RUN_PRETRAIN, path, processes=processes, log_dir=tmp_path / f"log-{name}")
    tensors: dict[str, np.ndarray] = {}
    for file in (tmp_path / name).glob("*.safetensors"):
        tensors |= load_file(file)
    return tensors


def test_files_of_split_layouts_are_those_of_one_process(tmp_path: Path) -> None:
    write_model(tmp_path / "model", num_key_value_heads=2, vocab_size=130)
    write_data(tmp_path / "data")
    expected = saved(tmp_path, "one", 1)
    assert expected["lm_head.weight"].shape == (130, 64)
    for name, options in LAYOUTS.items():
        found = saved(tmp_path, name, 4, **options)
        assert found.keys() == expected.keys(), name
        for tensor, values in expected.items():
            np.testing.assert_array_equal(found[tensor], values, err_msg=f"{name}: {tensor}")
