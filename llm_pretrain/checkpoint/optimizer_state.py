"""The optimizer's state on disk, in a form that knows no layout.

Each rank that owns a shard writes one safetensors file of flat arrays and one JSON file that says,
for each array, which parameter it is a range of and which published tensors stand where in that
parameter. A reader of any layout gathers the ranges that it needs, parameter by parameter, so that
no process holds more than its own part and one parameter of the writer's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llm_pretrain.checkpoint.checksums import Checksums, DamagedCheckpointError
from llm_pretrain.checkpoint.host_memory import copied_file
from llm_pretrain.checkpoint.safetensors_file import (
    UnreadableFileError,
    read_safetensors,
    to_float32,
    writing_safetensors,
)
from llm_pretrain.config import ConfigError
from llm_pretrain.machine.files import write_text

FOLDER = "optimizer"
VALUES = ("master", "moment1", "moment2")
"""Kinds of value that every element of a parameter has."""

Block = tuple[tuple[int, int], ...]
"""Begin and end along each axis of a published tensor."""


@dataclass(frozen=True)
class SavedPiece:
    """The block of a published tensor that stands in a parameter, at `region` of it."""

    name: str
    shape: tuple[int, ...]
    """Of the whole published tensor."""
    block: Block
    region: Block


@dataclass(frozen=True)
class SavedRange:
    """Elements [begin, end) of a flattened parameter, under `key` in the writer's file."""

    key: str
    shape: tuple[int, ...]
    begin: int
    end: int
    pieces: tuple[SavedPiece, ...]


def shard_name(rank: int) -> str:
    """The file of a rank's ranges."""
    return f"rank-{rank:05d}.safetensors"


def write_shard(
    directory: Path,
    rank: int,
    ranges: list[SavedRange],
    arrays: Iterable[tuple[str, np.ndarray]],
    steps: int,
) -> list[Path]:
    """Write one rank's ranges.

    Args:
        directory: the checkpoint's directory.
        arrays: float32, each with its name "<range's key>/<kind of value>"; taken one at a time.
        steps: of the optimizer so far.

    Returns:
        The files.
    """
    folder = directory / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / shard_name(rank)
    with writing_safetensors(path, tensors=len(ranges) * len(VALUES)) as writer:
        for name, values in arrays:
            writer.add(name, values, "float32")
    index = {"steps": steps, "ranges": [asdict(entry) for entry in ranges]}
    write_text(path.with_suffix(".json"), json.dumps(index))
    return [path, path.with_suffix(".json")]


class SavedOptimizer:
    """Reads the state that any layout wrote.

    A file is compared with its checksum before anything is taken from it. Where this host has a
    copy of its values in memory, they are taken from there.

    Args:
        betas: of AdamW, by which earlier versions of this program told the number of steps.

    Raises:
        DamagedCheckpointError: files are missing or damaged.
        ConfigError: they don't cover a tensor that is asked for.
    """

    def __init__(self, checkpoint: Path, betas: tuple[float, float] = (0.9, 0.999)) -> None:
        self.folder = checkpoint / FOLDER
        self.steps = 0
        self._betas = betas
        self._checksums = Checksums(checkpoint)
        self._holders: dict[str, dict[tuple, list[tuple[Path, SavedRange]]]] = {}
        self._arrays: dict[Path, Mapping[str, np.ndarray]] = {}
        self._assembled: tuple[Any, np.ndarray] | None = None
        paths = sorted(self.folder.glob("rank-*.json"))
        if not paths:
            raise DamagedCheckpointError(f"{self.folder} holds no optimizer state (rank-*.json)")
        for path in paths:
            self._read_index(path)

    def _read_index(self, path: Path) -> None:
        self._checksums.assert_undamaged(path)
        try:
            index = json.loads(path.read_text())
            self.steps = (
                int(index["steps"])
                if "steps" in index
                else steps_of_powers(index["powers"], self._betas)
            )
            for entry in index["ranges"]:
                saved = parse_range(entry)
                for piece in saved.pieces:
                    holders = self._holders.setdefault(piece.name, {})
                    parameter = (saved.shape, saved.pieces)
                    holders.setdefault(parameter, []).append(
                        (path.with_suffix(".safetensors"), saved)
                    )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DamagedCheckpointError(f"{path} can't be read: {error!r}") from error

    def read(
        self, name: str, shape: tuple[int, ...], block: tuple[slice, ...], value: str
    ) -> np.ndarray:
        """One kind of value of a block of the published tensor `name` of `shape`, float32; a view
        of what is read where that is all of it."""
        wanted = tuple((part.start, part.stop) for part in block)
        result: np.ndarray | None = None
        sizes = [end - begin for begin, end in wanted]
        filled = 0
        seen: set[Block] = set()
        for parameter, ranges in self._holders.get(name, {}).items():
            piece = next(piece for piece in parameter[1] if piece.name == name)
            if piece.shape != shape:
                raise ConfigError(
                    [
                        f"{self.folder}: {name} is {list(piece.shape)} there and {list(shape)} "
                        "in this run: the checkpoint is of another model"
                    ]
                )
            common = _intersection(piece.block, wanted)
            if common is None or piece.block in seen:
                continue
            seen.add(piece.block)
            whole = self._assemble(parameter, ranges, value)
            part = whole[tuple(slice(begin, end) for begin, end in piece.region)]
            if common == wanted:
                return part[_relative(common, piece.block)]
            if result is None:
                result = np.empty(sizes, dtype=np.float32)
            result[_relative(common, wanted)] = part[_relative(common, piece.block)]
            filled += math.prod(end - begin for begin, end in common)
        size = math.prod(sizes)
        if result is None or filled != size:
            raise ConfigError(
                [
                    f"{self.folder} holds {filled} of the {size} values wanted of {name} "
                    f"({value}): the checkpoint is of another model, or parts of it lie on "
                    "another node's disk"
                ]
            )
        return result

    def _assemble(
        self, parameter: tuple, ranges: list[tuple[Path, SavedRange]], value: str
    ) -> np.ndarray:
        """The whole parameter of a writer; the last one is kept, since its pieces follow."""
        if self._assembled is not None and self._assembled[0] == (parameter, value):
            return self._assembled[1]
        shape = parameter[0]
        path, saved = ranges[0]
        if (saved.begin, saved.end) == (0, math.prod(shape)):
            return self._array(path, f"{saved.key}/{value}").reshape(shape)
        flat = np.empty(int(np.prod(shape)), dtype=np.float32)
        covered = np.zeros(0, dtype=np.int64)
        for path, saved in ranges:
            flat[saved.begin : saved.end] = self._array(path, f"{saved.key}/{value}")
            covered = np.append(covered, [saved.begin, saved.end])
        starts = np.sort(covered[0::2])
        ends = np.sort(covered[1::2])
        if starts[0] != 0 or ends[-1] != flat.size or np.any(starts[1:] > ends[:-1]):
            raise DamagedCheckpointError(
                f"{self.folder}: parts of {parameter[1][0].name} are missing"
            )
        whole = flat.reshape(shape)
        self._assembled = ((parameter, value), whole)
        return whole

    def _array(self, path: Path, name: str) -> np.ndarray:
        """An array of a file."""
        if path not in self._arrays:
            self._arrays[path] = self._open(path)
        try:
            return self._arrays[path][name]
        except KeyError:
            raise DamagedCheckpointError(f"{path} lacks {name}") from None

    def _open(self, path: Path) -> Mapping[str, np.ndarray]:
        """The arrays of a file that is whole."""
        expected = self._checksums.files.get(path.relative_to(self.folder.parent).as_posix())
        copy = copied_file(path, expected) if expected else None
        if copy is not None:
            return copy
        self._checksums.assert_undamaged(path)
        try:
            tensors = read_safetensors(path).tensors
            return {name: to_float32(tensor.read(())) for name, tensor in tensors.items()}
        except (OSError, UnreadableFileError) as error:
            raise DamagedCheckpointError(f"{path} can't be read: {error}") from error


def steps_of_powers(powers: dict[str, float], betas: tuple[float, float]) -> int:
    """After how many steps the betas have these powers for the next one.

    A float32 power tells the number until it is so small that it corrects nothing any more.
    """
    steps = [0]
    for name, beta in zip(("beta1_pow_acc", "beta2_pow_acc"), betas, strict=True):
        if 0.0 < beta < 1.0:
            steps.append(round(math.log(max(float(powers[name]), 1e-30)) / math.log(beta)) - 1)
    return max(steps)


def parse_range(entry: dict[str, Any]) -> SavedRange:
    """A range as `dataclasses.asdict` has written it."""

    def block(pairs: Any) -> Block:
        return tuple((int(begin), int(end)) for begin, end in pairs)

    def sizes(values: Any) -> tuple[int, ...]:
        return tuple(int(size) for size in values)

    pieces = tuple(
        SavedPiece(
            str(piece["name"]), sizes(piece["shape"]), block(piece["block"]), block(piece["region"])
        )
        for piece in entry["pieces"]
    )
    return SavedRange(
        str(entry["key"]), sizes(entry["shape"]), int(entry["begin"]), int(entry["end"]), pieces
    )


def _intersection(one: Block, other: Block) -> Block | None:
    common = tuple((max(a, c), min(b, d)) for (a, b), (c, d) in zip(one, other, strict=True))
    return common if all(begin < end for begin, end in common) else None


def _relative(block: Block, to: Block) -> tuple[slice, ...]:
    return tuple(
        slice(begin - origin, end - origin)
        for (begin, end), (origin, _) in zip(block, to, strict=True)
    )


def slices_to_block(slices: tuple[slice, ...]) -> Block:
    return tuple((part.start, part.stop) for part in slices)
