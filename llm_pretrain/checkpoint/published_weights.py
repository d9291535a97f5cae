"""The weights of a whole model, whatever files they are in, read by parts."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from llm_pretrain.checkpoint.safetensors_file import (
    StoredTensor,
    UnreadableFileError,
    to_dtype,
    to_float32,
    transpose,
)
from llm_pretrain.checkpoint.weight_files import HUGGING_FACE, WeightFormat, names_of, open_weights
from llm_pretrain.config import ConfigError
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.models.families import read_model_config


class PublishedWeights:
    """Every tensor of a model, under its canonical name and [in, out] for linear layers.

    Args:
        may_be_deeper: whether the files may hold more layers than the model has.

    Attributes:
        shapes: of the whole tensors.

    Raises:
        ConfigError: no weights in `directory`, unreadable ones, or all tensors that are missing,
            are not the model's, or have another shape.
    """

    def __init__(self, directory: Path, model: ModelConfig, *, may_be_deeper: bool = False) -> None:
        self.directory = directory
        self.model = model
        self.may_be_deeper = may_be_deeper
        self.format, shards, _ = open_weights(directory)
        self.shapes = model.tensor_shapes()
        # What each tensor-parallel rank of the program that wrote them held.
        part = _part_of(model, len(shards))
        part = min(
            (
                replace(part, fuse_attention_qkv=fused_qkv, fuse_attention_ffn=fused_ffn)
                for fused_qkv in (False, True)
                for fused_ffn in (False, True)
            ),
            key=lambda form: len(_missing(shards[0], self.format, form)),
        )
        self._part_shapes = part.tensor_shapes()
        self._sources = self.format.sources(part)
        self._shards = [self._with_prefix(shard) for shard in shards]
        self._check()

    @property
    def dtype(self) -> str:
        """The type that holds every value: that of the tensors, or float32 if they have several."""
        names = {source.name for source in self._sources.values()}
        dtypes = {shard[name].dtype for shard in self._shards for name in names}
        return dtypes.pop() if len(dtypes) == 1 else "float32"

    def read(self, name: str, block: tuple[slice, ...]) -> np.ndarray:
        """A part of the tensor with the canonical name `name`, as float32.

        float32 holds every value of the types that are read.
        """
        return to_float32(self._read(name, block))

    def _read(self, name: str, block: tuple[slice, ...]) -> np.ndarray:
        """The same as it is stored, bfloat16 as its bits in uint16."""
        whole, part = self.shapes[name], self._part_shapes[name]
        axis = next((axis for axis, size in enumerate(part) if size != whole[axis]), None)
        if axis is None:
            return self._read_part(self._shards[0], name, block)
        values: list[np.ndarray] = []
        for number, shard in enumerate(self._shards):
            first = number * part[axis]
            begin, end = (
                min(max(place - first, 0), part[axis])
                for place in (block[axis].start, block[axis].stop)
            )
            inner = (*block[:axis], slice(begin, end), *block[axis + 1 :])
            values.append(self._read_part(shard, name, inner))
        if len({part.dtype for part in values}) > 1:
            values = [to_float32(part) for part in values]
        return np.concatenate(values, axis)

    def whole_tensors(self) -> Iterator[tuple[str, np.ndarray]]:
        """Every tensor with its canonical name, of the type `dtype`, one at a time.

        bfloat16 is given as its bits in uint16.
        """
        dtype = self.dtype
        for name, shape in self.shapes.items():
            yield name, to_dtype(self._read(name, tuple(slice(0, size) for size in shape)), dtype)

    def _read_part(
        self, shard: dict[str, StoredTensor], name: str, block: tuple[slice, ...]
    ) -> np.ndarray:
        source = self._sources[name]
        stored: tuple[slice | np.ndarray, ...] = block
        if source.outputs is not None:
            stored = (*block[:-1], source.outputs.indices(block[-1].start, block[-1].stop))
        try:
            if source.is_transposed:
                return transpose(shard[source.name].read(stored[::-1]))
            return shard[source.name].read(stored)
        except UnreadableFileError as error:
            raise ConfigError([f"{self.directory}: {source.name} {error}."]) from None

    def _with_prefix(self, shard: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
        """The names of a model with a head, where a model without one was published."""
        expected = {source.name for source in self._sources.values()}
        prefix, _, table = self._sources["embedding.weight"].name.partition(".")
        if table not in shard:
            return shard
        return {
            name if name in expected else f"{prefix}.{name}": tensor
            for name, tensor in shard.items()
        }

    def _check(self) -> None:
        """Compare what is there with the whole model, on every rank alike."""
        expected = {
            self._sources[name].name: self._sources[name].shape(shape)
            for name, shape in self._part_shapes.items()
        }
        missing, extra, misshapen = [], [], []
        for number, shard in enumerate(self._shards):
            where = f" (tensor-parallel rank {number})" if len(self._shards) > 1 else ""
            missing += [name + where for name in expected if name not in shard]
            extra += [
                name + where
                for name in shard
                if name not in expected
                and not self.format.is_redundant(name, self.model)
                and not (self.may_be_deeper and self._is_of_further_layer(name, expected))
            ]
            misshapen += [
                f"{name}{where} is {list(shard[name].shape)} and should be {list(shape)}"
                for name, shape in expected.items()
                if name in shard and shard[name].shape != shape
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
        table = self._shards[0].get(self._sources["embedding.weight"].name)
        rows = table.shape[0] if table is not None else self.model.vocab_size
        if len(self._shards) == 1 and rows != self.model.vocab_size:
            parts.append(f"the table has {rows} rows where vocab_size is {self.model.vocab_size}")
        program = "" if self.format is HUGGING_FACE else f" of {self.format.program}"
        raise ConfigError(
            [f"{self.directory}: the weights{program} don't fit the model. {'; '.join(parts)}."]
        )

    def _is_of_further_layer(self, name: str, expected: Container[str]) -> bool:
        """Whether a tensor is like one of the first layer's, after the model's last layer."""
        number = re.search(r"(?<=\.)\d+(?=\.)", name)
        if number is None or int(number[0]) < self.model.num_hidden_layers:
            return False
        return f"{name[: number.start()]}0{name[number.end() :]}" in expected


def table_rows(directory: Path, model: ModelConfig) -> int:
    """Rows of the embedding's table in the weights of a model like `model`, but for its size.

    Raises:
        ConfigError: no weights in `directory`, unreadable ones, or none of a table.
    """
    weight_format, shards, _ = open_weights(directory)
    name = weight_format.source("embedding.weight", model).name
    table = shards[0].get(name) or shards[0].get(name.partition(".")[2])
    if table is None or not table.shape:
        raise ConfigError([f"{directory}: the weights lack {name}."])
    rows = table.shape[0]
    if len(shards) == 1 or rows == read_model_config(directory).vocab_size:
        return rows
    return rows * len(shards)


def _part_of(model: ModelConfig, degree: int) -> ModelConfig:
    """The model of the sizes that PaddleNLP gives each of `degree` tensor-parallel ranks.

    What does not divide is whole on every rank.
    """

    def share(size: int) -> int:
        return size if size % degree else size // degree

    return replace(
        model,
        vocab_size=share(model.vocab_size),
        intermediate_size=share(model.intermediate_size),
        num_attention_heads=share(model.num_attention_heads),
        num_key_value_heads=share(model.num_key_value_heads),
    )


def _missing(
    shard: dict[str, StoredTensor], weight_format: WeightFormat, model: ModelConfig
) -> list[str]:
    return [
        source.name for source in weight_format.sources(model).values() if source.name not in shard
    ]
