"""The weights in a directory: which files, of which program, and what is in them.

Hugging Face's and PaddleNLP's programs name and turn the weights each in their own way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from llm_pretrain.checkpoint.checksums import Checksums
from llm_pretrain.checkpoint.pickled_files import read_paddle_file, read_torch_file
from llm_pretrain.checkpoint.safetensors_file import (
    StoredTensor,
    UnreadableFileError,
    read_safetensors,
)
from llm_pretrain.config import ConfigError
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.models.families import family_of, is_redundant, paddlenlp
from llm_pretrain.models.families.published import Source

# Each a whole model, or the parts of one under an index of the same name; the first is taken.
# PaddleNLP keeps masters in float32, and on demand nothing else.
FILES = (
    "model.safetensors",
    "pytorch_model.bin",
    "model_state.pdparams",
    "master_weights.safetensors",
)
_PART = re.compile(r"(?:model_state|model)\.(?:tp(\d+))?_?(?:pp(\d+))?\.(?:pdparams|safetensors)")
# What older PaddleNLP programs note in their files, too.
_PADDLE_FRAMEWORKS = ("np", "pd")


@dataclass(frozen=True)
class WeightFormat:
    """One program's way to write a model down."""

    program: str
    framework: str
    """What its safetensors files say of themselves."""
    dtype_key: str
    """The key of config.json for the type of the weights."""
    write_config: Callable[[ModelConfig], dict[str, Any]]
    source: Callable[[str, ModelConfig], Source]
    """Where a tensor of a canonical name stands."""
    is_redundant: Callable[[str, ModelConfig], bool]
    """Whether files may hold a tensor of a published name that no parameter is read from."""

    def sources(self, model: ModelConfig) -> dict[str, Source]:
        """Where each tensor of a whole model stands, by canonical name."""
        return {name: self.source(name, model) for name in model.tensor_shapes()}


HUGGING_FACE = WeightFormat(
    "Hugging Face",
    "pt",
    "torch_dtype",
    lambda model: family_of(model).write_config(model),
    lambda canonical, model: family_of(model).source(canonical, model),
    is_redundant,
)
PADDLENLP = WeightFormat(
    "PaddleNLP",
    "np",
    "dtype",
    paddlenlp.write_config,
    paddlenlp.source,
    paddlenlp.is_redundant,
)


class WeightFiles(NamedTuple):
    """The tensors that the files of a directory hold."""

    format: WeightFormat
    shards: list[dict[str, StoredTensor]]
    """By name, for each of the tensor-parallel ranks that wrote files of their own; else one."""
    names: list[str]
    """Of the files, in their order."""

    def __str__(self) -> str:
        count = sum(map(len, self.shards))
        return f"{count:,} tensors in {names_of(self.names, 1)}"


def has_weights(directory: Path) -> bool:
    """Whether `directory` holds files that look like a model's weights."""
    names = [name for file in FILES for name in (file, f"{file}.index.json")]
    return any((directory / name).is_file() for name in names) or bool(_parts(directory))


def assert_undamaged(directory: Path) -> None:
    """Read the weights of a checkpoint and compare them with its checksums; others have none.

    Raises:
        DamagedCheckpointError: a file differs or is missing.
    """
    checksums = Checksums(directory)
    checksums.assert_complete()
    for name in checksums.files:
        if name.endswith(".safetensors") and "/" not in name:
            checksums.assert_undamaged(directory / name)


def open_weights(directory: Path) -> WeightFiles:
    """What is there; values are not read yet.

    Raises:
        ConfigError: no weights, or files that are damaged or absent.
    """
    for name in FILES:
        if (directory / name).is_file():
            weight_format, tensors = _open_file(directory / name)
            return WeightFiles(weight_format, [tensors], [name])
        if (directory / f"{name}.index.json").is_file():
            return _open_index(directory / f"{name}.index.json")
    if parts := _parts(directory):
        return _open_parts(directory, parts)
    raise ConfigError([_no_weights(directory)])


def _open_file(path: Path) -> tuple[WeightFormat, dict[str, StoredTensor]]:
    try:
        if path.suffix == ".safetensors":
            tensors, metadata = read_safetensors(path)
            is_paddles = metadata.get("format") in _PADDLE_FRAMEWORKS
            return PADDLENLP if is_paddles else HUGGING_FACE, tensors
        if path.suffix == ".pdparams":
            return PADDLENLP, read_paddle_file(path)
        return HUGGING_FACE, read_torch_file(path)
    except (OSError, UnreadableFileError) as error:
        raise ConfigError([f"{path}: can't be read: {error}."]) from None


def _open_index(index: Path) -> WeightFiles:
    directory = index.parent
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
    opened = {file: _open_file(directory / file) for file in files}
    lacking = [name for name, file in weight_map.items() if name not in opened[file][1]]
    if lacking:
        raise ConfigError([f"{index}: these are not in the files it says: {names_of(lacking)}."])
    formats = {weight_format.program: weight_format for weight_format, _ in opened.values()}
    if len(formats) != 1:
        programs = " and of ".join(formats) or "no program"
        raise ConfigError([f"{index}: its files are of {programs}."])
    tensors = {name: opened[file][1][name] for name, file in weight_map.items()}
    return WeightFiles(formats.popitem()[1], [tensors], files)


def _parts(directory: Path) -> dict[Path, Sequence[str | None]]:
    """Files of single ranks, each with its tensor- and pipeline-parallel rank."""
    return {
        path: found.groups()
        for path in directory.glob("model*")
        if (found := _PART.fullmatch(path.name))
    }


def _open_parts(directory: Path, ranks: Mapping[Path, Sequence[str | None]]) -> WeightFiles:
    """Files of each tensor- and pipeline-parallel rank, such as model_state.tp00_pp01.pdparams."""
    stages: dict[int, dict[int, Path]] = {}
    for path, (tensor, pipeline) in ranks.items():
        stages.setdefault(int(tensor or 0), {})[int(pipeline or 0)] = path
    degrees = len(stages), max(len(paths) for paths in stages.values())
    for rank in range(degrees[0]):
        if sorted(stages.get(rank, ())) != list(range(degrees[1])):
            raise ConfigError(
                [
                    f"{directory}: of the files of a run with tensor_parallel_degree "
                    f"{degrees[0]} and pipeline_parallel_degree {degrees[1]} some are missing: "
                    f"{names_of(sorted(path.name for path in ranks))} are there."
                ]
            )
    shards = []
    for _, paths in sorted(stages.items()):
        shard: dict[str, StoredTensor] = {}
        for _, path in sorted(paths.items()):
            weight_format, tensors = _open_file(path)
            shard |= tensors
        shards.append(shard)
    return WeightFiles(weight_format, shards, sorted(path.name for path in ranks))


def _no_weights(directory: Path) -> str:
    message = f"{directory}: holds none of {', '.join(FILES)}, nor an index of one"
    others = sorted(
        path.name
        for pattern in ("*.bin", "*.pt", "*.pth", "*.pdparams", "*.safetensors", "*.h5")
        for path in directory.glob(pattern)
    )
    if others:
        message += f", only {names_of(others)}"
    return message + ". Weights are needed where continue_training is set."


def names_of(entries: Sequence[str], limit: int = 8) -> str:
    """A list for an error message, cut where it would get long."""
    shown = ", ".join(entries[:limit])
    return shown if len(entries) <= limit else f"{shown} and {len(entries) - limit} more"
