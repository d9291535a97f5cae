"""Writing the weights of a whole model as files that other programs read.

config.json and safetensors, one file or several with an index. Takes one whole tensor at a time.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from llm_pretrain.checkpoint.safetensors_file import (
    NUMPY_TYPES,
    to_dtype,
    transpose,
    writing_safetensors,
)
from llm_pretrain.checkpoint.weight_files import HUGGING_FACE, WeightFormat
from llm_pretrain.config import ConfigError
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.machine.files import write_text

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
DEFAULT_SHARD_BYTES = 4 * 2**30


class WrittenTensor(NamedTuple):
    """Where a tensor was written, and its size in bytes."""

    file: str
    size: int


def write_weights(
    tensors: Iterable[tuple[str, np.ndarray]],
    model: ModelConfig,
    directory: str | Path,
    *,
    dtype: str = "float32",
    weight_format: WeightFormat = HUGGING_FACE,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
) -> None:
    """Write config.json and the weights of a whole model.

    Args:
        tensors: canonical names with whole tensors, [in, out] for linear layers; bfloat16 as its
            bits in uint16. Taken one at a time.
        dtype: of the file, "float32", "float16" or "bfloat16".
        max_shard_bytes: more than this goes into several files.

    Raises:
        ConfigError: a finite value is too large for `dtype`.
    """
    written = write_weight_files(
        tensors,
        model,
        directory,
        dtype=dtype,
        weight_format=weight_format,
        max_shard_bytes=max_shard_bytes,
    )
    finish_weights(written, model, directory, dtype=dtype, weight_format=weight_format)


def write_weight_files(
    tensors: Iterable[tuple[str, np.ndarray]],
    model: ModelConfig,
    directory: str | Path,
    *,
    label: str = "",
    dtype: str = "float32",
    weight_format: WeightFormat = HUGGING_FACE,
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
) -> dict[str, WrittenTensor]:
    """Write some of a model's tensors: what one stage of a pipeline holds.

    Args:
        label: makes the file names of this call its own ("stage-1").

    Returns:
        Published names with what was written of them, for `finish_weights`.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    written: dict[str, WrittenTensor] = {}
    remaining = as_published(tensors, model, weight_format)
    pending = next(remaining, None)
    while pending is not None:
        count = len({tensor.file for tensor in written.values()})
        file = "-".join(filter(None, ("model", label, f"{count + 1:05d}"))) + ".safetensors"
        with writing_safetensors(directory / file, framework=weight_format.framework) as writer:
            while pending is not None:
                name, values = pending
                size = math.prod(values.shape) * NUMPY_TYPES[dtype].itemsize
                if not writer.has_room(size, max_shard_bytes):
                    break
                writer.add(name, _converted(name, values, dtype), dtype)
                written[name] = WrittenTensor(file, size)
                pending = next(remaining, None)
    return written


def _converted(name: str, values: np.ndarray, dtype: str) -> np.ndarray:
    try:
        return to_dtype(values, dtype)
    except OverflowError as error:
        raise ConfigError([f"{name} {error}."]) from None


def as_published(
    tensors: Iterable[tuple[str, np.ndarray]],
    model: ModelConfig,
    weight_format: WeightFormat = HUGGING_FACE,
) -> Iterator[tuple[str, np.ndarray]]:
    """Tensors under their published names; those that are fused in one come when it is full.

    What a run fuses is split, which every program reads.
    """
    split = replace(model, fuse_attention_qkv=False, fuse_attention_ffn=False)
    fused: dict[str, tuple[np.ndarray, int]] = {}
    for canonical, values in tensors:
        source = weight_format.source(canonical, split)
        if source.outputs is None:
            for name in filter(None, (source.name, source.copy)):
                yield name, transpose(values) if source.is_transposed else values
            continue
        whole, missing = fused.pop(source.name, (None, source.outputs.total))
        if whole is None:
            whole = np.empty((*values.shape[:-1], source.outputs.total), dtype=values.dtype)
        whole[..., source.outputs.indices(0, values.shape[-1])] = values
        missing -= values.shape[-1]
        if missing:
            fused[source.name] = whole, missing
        else:
            yield source.name, transpose(whole) if source.is_transposed else whole
    assert not fused, f"parts are missing of {', '.join(fused)}"


def finish_weights(
    written: Mapping[str, WrittenTensor],
    model: ModelConfig,
    directory: str | Path,
    *,
    dtype: str = "float32",
    weight_format: WeightFormat = HUGGING_FACE,
) -> set[str]:
    """Make the files of all calls of `write_weight_files` a model: config.json and the index.

    What an earlier save left of weights in `directory` is removed.

    Returns:
        The names of the files that this has written or renamed.
    """
    directory = Path(directory)
    files = {tensor.file for tensor in written.values()}
    stale = {path.name for path in directory.glob("model*.safetensors")} - files
    for name in (*stale, INDEX_FILE):
        (directory / name).unlink(missing_ok=True)
    if len(files) == 1:
        listed = SINGLE_FILE
        os.replace(directory / files.pop(), directory / SINGLE_FILE)
    else:
        listed = INDEX_FILE
        _write_json(
            directory / INDEX_FILE,
            {
                "metadata": {"total_size": sum(tensor.size for tensor in written.values())},
                "weight_map": {name: tensor.file for name, tensor in written.items()},
            },
        )
    published = {**weight_format.write_config(model), weight_format.dtype_key: dtype}
    _write_json(directory / "config.json", published)
    return {listed, "config.json"}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n")
