"""Runs in PaddleNLP's environment: loads each model of a directory and saves it in its own ways.

Usage: paddlenlp_convert.py DIRECTORY. For every DIRECTORY/<name>/converted, a model in its layout,
writes DIRECTORY/<name>/state.npz (its tensors), and saves it as DIRECTORY/<name>/safetensors,
/pdparams and /parts, where each of two tensor-parallel ranks has a file of its own.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import paddle
from paddlenlp.transformers import AutoModelForCausalLM


def as_arrays(state: dict) -> dict[str, np.ndarray]:
    return {name: np.asarray(tensor) for name, tensor in state.items()}


def save_parts(model: paddle.nn.Layer, directory: Path) -> None:
    model.config.save_pretrained(str(directory))
    for rank in range(2):
        model.config.tensor_parallel_degree = 2
        model.config.tensor_parallel_rank = rank
        part = dict(model.state_dict())
        actions = model.get_tensor_parallel_convert_actions(
            model.config, list(part), ignore_error=True
        )
        for name, action in actions.items():
            part[name] = paddle.to_tensor(action(part[name]))
        paddle.save(part, str(directory / f"model_state.tp{rank:02d}.pdparams"))
    model.config.tensor_parallel_degree = 1


def main(directory: str) -> None:
    paddle.set_device("cpu")
    for path in sorted(Path(directory).glob("*/converted")):
        model = AutoModelForCausalLM.from_pretrained(str(path), dtype="float32")
        folder = path.parent
        np.savez(folder / "state.npz", **as_arrays(model.state_dict()))
        model.save_pretrained(
            str(folder / "safetensors"), safe_serialization=True, max_shard_size="50KB"
        )
        model.save_pretrained(str(folder / "pdparams"))
        save_parts(model, folder / "parts")


if __name__ == "__main__":
    main(*sys.argv[1:])
