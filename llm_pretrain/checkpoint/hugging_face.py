"""Weights in Hugging Face's layout: config.json and safetensors, single or sharded with an index.

Reading takes only this rank's part of every tensor. Writing takes one whole tensor at a time.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from paddle import nn

from llm_pretrain.checkpoint.directory import flush_file
from llm_pretrain.checkpoint.safetensors_file import (
    SafetensorsReader,
    SafetensorsWriter,
    UnreadableFileError,
    itemsize,
    names_of,
    to_dtype,
)
from llm_pretrain.config.errors import ConfigError
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.models.families import family_of
from llm_pretrain.parallel.pieces import Piece, fill, local_block

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
DEFAULT_SHARD_BYTES = 4 * 2**30
# What PaddleNLP notes in its files; the shapes of square weights would not betray it.
_PADDLE_FORMATS = ("np", "pd")


class WrittenTensor(NamedTuple):
    """Where a tensor was written, and its size in bytes."""

    file: str
    size: int


def load_weights(model: nn.Layer, config: ModelConfig, directory: str | Path) -> None:
    """Fill the parameters of `model`, a decoder or a part of it, from published weights.

    float32, float16 and bfloat16 files are read into parameters of any of these types.

    Raises:
        ConfigError: no weights there, unreadable ones, or all tensors that are missing, are not
            the model's, or have another shape.
    """
    directory = Path(directory)
    readers = _open(directory)
    _check(readers, config, directory)
    family = family_of(config)

    def local_part(piece: Piece) -> np.ndarray:
        source = family.source(piece.name, config)
        block: tuple[slice | np.ndarray, ...] = local_block(piece)
        if source.outputs is not None:
            last = local_block(piece)[-1]
            block = (*block[:-1], source.outputs.indices(last.start, last.stop))
        try:
            if source.is_transposed:
                return readers[source.name].read(source.name, block[::-1]).T
            return readers[source.name].read(source.name, block)
        except UnreadableFileError as error:
            raise ConfigError([f"{directory}: {error}."]) from None

    fill(model, local_part)


def _open(directory: Path) -> dict[str, SafetensorsReader]:
    """The file that holds each tensor."""
    if (directory / SINGLE_FILE).is_file():
        reader = _open_file(directory / SINGLE_FILE)
        return dict.fromkeys(reader.entries, reader)
    index = directory / INDEX_FILE
    if not index.is_file():
        raise ConfigError([_no_weights(directory)])
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = sorted(set(weight_map.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError([f"{index}: can't be read as an index of weights: {error}."]) from None
    if any(not isinstance(file, str) or Path(file).name != file for file in files):
        raise ConfigError([f"{index}: weight_map must name files of the same directory."])
    absent = [file for file in files if not (directory / file).is_file()]
    if absent:
        raise ConfigError([f"{index}: names files that are not there: {names_of(absent)}."])
    readers = {file: _open_file(directory / file) for file in files}
    lacking = [name for name, file in weight_map.items() if name not in readers[file].entries]
    if lacking:
        raise ConfigError([f"{index}: these are not in the files it says: {names_of(lacking)}."])
    return {name: readers[file] for name, file in weight_map.items()}


def _open_file(path: Path) -> SafetensorsReader:
    try:
        reader = SafetensorsReader(path)
    except (OSError, UnreadableFileError) as error:
        raise ConfigError([f"{path}: can't be read: {error}."]) from None
    if reader.metadata.get("format") in _PADDLE_FORMATS:
        raise ConfigError(
            [
                f"{path}: was saved by PaddleNLP, which keeps linear weights as [in, out]. "
                "Hugging Face's layout, [out, in], is needed."
            ]
        )
    return reader


def _no_weights(directory: Path) -> str:
    message = f"{directory}: holds neither {SINGLE_FILE} nor {INDEX_FILE}"
    pickled = sorted(
        path.name
        for pattern in ("*.bin", "*.pt", "*.pth", "*.pdparams")
        for path in directory.glob(pattern)
    )
    if pickled:
        message += f"; {names_of(pickled)} would have to be converted to safetensors first"
    return message + ". Weights are needed where continue_training is set."


def _check(readers: Mapping[str, SafetensorsReader], config: ModelConfig, directory: Path) -> None:
    """Compare what is there with the whole model, on every rank alike."""
    family = family_of(config)
    expected: dict[str, tuple[int, ...]] = {}
    for canonical, shape in config.tensor_shapes().items():
        source = family.source(canonical, config)
        expected[source.name] = source.shape(shape)
    missing = [name for name in expected if name not in readers]
    extra = [
        name for name in readers if name not in expected and not family.is_redundant(name, config)
    ]
    misshapen = [
        f"{name} is {list(readers[name].entries[name].shape)} and should be {list(shape)}"
        for name, shape in expected.items()
        if name in readers and readers[name].entries[name].shape != shape
    ]
    parts = [
        f"{label}: {names_of(names)}"
        for label, names in (
            ("missing", missing),
            ("not the model's", extra),
            ("of another shape", misshapen),
        )
        if names
    ]
    if not parts:
        return
    table = family.source("embedding.weight", config).name
    rows = readers[table].entries[table].shape[0] if table in readers else config.vocab_size
    if rows != config.vocab_size:
        parts.append(f"the table has {rows} rows where vocab_size is {config.vocab_size}")
    raise ConfigError([f"{directory}: the weights don't fit the model. {'; '.join(parts)}."])


def write_weights(
    tensors: Iterable[tuple[str, np.ndarray]],
    config: ModelConfig,
    directory: str | Path,
    *,
    dtype: str = "float32",
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
) -> None:
    """Write config.json and the weights of a whole model.

    Args:
        tensors: canonical names with whole tensors, [in, out] for linear layers; bfloat16 as its
            bits in uint16. Taken one at a time.
        dtype: of the file, "float32", "float16" or "bfloat16".
        max_shard_bytes: more than this goes into several files.
    """
    written = write_weight_files(
        tensors, config, directory, dtype=dtype, max_shard_bytes=max_shard_bytes
    )
    finish_weights(written, config, directory, dtype=dtype)


def write_weight_files(
    tensors: Iterable[tuple[str, np.ndarray]],
    config: ModelConfig,
    directory: str | Path,
    *,
    label: str = "",
    dtype: str = "float32",
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
    remaining = as_published(tensors, config)
    pending = next(remaining, None)
    while pending is not None:
        count = len({tensor.file for tensor in written.values()})
        file = "-".join(filter(None, ("model", label, f"{count + 1:05d}"))) + ".safetensors"
        with SafetensorsWriter(directory / file) as writer:
            while pending is not None:
                name, values = pending
                size = math.prod(values.shape) * itemsize(dtype)
                if not writer.has_room(size, max_shard_bytes):
                    break
                writer.add(name, to_dtype(values, dtype), dtype)
                written[name] = WrittenTensor(file, size)
                pending = next(remaining, None)
    return written


def as_published(
    tensors: Iterable[tuple[str, np.ndarray]], config: ModelConfig
) -> Iterator[tuple[str, np.ndarray]]:
    """Tensors under their published names; those that are packed in one come when it is full."""
    family = family_of(config)
    packed: dict[str, tuple[np.ndarray, int]] = {}
    for canonical, values in tensors:
        source = family.source(canonical, config)
        if source.outputs is None:
            yield source.name, values.T if source.is_transposed else values
            continue
        whole, missing = packed.pop(source.name, (None, source.outputs.total))
        if whole is None:
            whole = np.empty((*values.shape[:-1], source.outputs.total), dtype=values.dtype)
        whole[..., source.outputs.indices(0, values.shape[-1])] = values
        missing -= values.shape[-1]
        if missing:
            packed[source.name] = whole, missing
        else:
            yield source.name, whole.T if source.is_transposed else whole
    assert not packed, f"parts are missing of {', '.join(packed)}"


def finish_weights(
    written: Mapping[str, WrittenTensor],
    config: ModelConfig,
    directory: str | Path,
    *,
    dtype: str = "float32",
) -> None:
    """Make the files of all calls of `write_weight_files` a model: config.json and the index.

    What an earlier save left of weights in `directory` is removed.
    """
    directory = Path(directory)
    files = {tensor.file for tensor in written.values()}
    stale = {path.name for path in directory.glob("model*.safetensors")} - files
    for name in (*stale, INDEX_FILE):
        (directory / name).unlink(missing_ok=True)
    if len(files) == 1:
        os.replace(directory / files.pop(), directory / SINGLE_FILE)
    else:
        _write_json(
            directory / INDEX_FILE,
            {
                "metadata": {"total_size": sum(tensor.size for tensor in written.values())},
                "weight_map": {name: tensor.file for name, tensor in written.items()},
            },
        )
    published = {**family_of(config).write_config(config), "torch_dtype": dtype}
    _write_json(directory / "config.json", published)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    unfinished = path.with_name(path.name + ".writing")
    unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    flush_file(unfinished)
    os.replace(unfinished, path)
