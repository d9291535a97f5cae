"""What one rank writes of a checkpoint, phase by phase; Paddle is not imported.

All ranks must have ended a phase before one begins the next:

- `prepare`: the first process of each disk makes an empty folder;
- `write`: everyone writes what it holds;
- `write_made_weights`: one rank of each stage makes the weights of what all have written;
- `publish`: rank 0 completes the weights, then the first of each disk lists the checksums and gives
  the folder its name.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llm_pretrain.checkpoint import write_weights
from llm_pretrain.checkpoint.checksums import note_files
from llm_pretrain.checkpoint.directory import (
    PROGRAM,
    STATE_FILE,
    keep_newest,
    publish,
    writing_path,
)
from llm_pretrain.checkpoint.optimizer_state import SavedOptimizer, SavedRange, write_shard
from llm_pretrain.checkpoint.write_weights import WrittenTensor
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.data.preprocess.tokenizers import copy_along
from llm_pretrain.machine.files import write_text

Arrays = Iterable[tuple[str, np.ndarray]]
FLIPPED = "bits of the state have flipped since it was compared"


@dataclass(frozen=True)
class WeightsPart:
    """The weights that a rank writes: those of its stage of the pipeline."""

    label: str
    """Makes the files' names this stage's own."""
    dtype: str
    names: Sequence[str]
    """The canonical names of those that are made of the masters in the shards' files; [] where
    their values are given."""


@dataclass(frozen=True)
class Retention:
    """Which checkpoints stay when a new one is published, see `keep_newest`."""

    limit: int | None = None
    keep_every: int | None = None
    spared: Collection[int] = ()


KEEP_ALL = Retention()


@dataclass(frozen=True)
class CheckpointPart:
    """One rank's part of a checkpoint, but for the values."""

    checkpoint: Path
    rank: int
    is_first_of_disk: bool
    """Whether this rank does what is done once for the folder that it writes to."""
    model: ModelConfig
    state: Mapping[str, Any]
    """What `trainer_state.json` says besides the program's name."""
    steps: int
    """Of the optimizer so far."""
    ranges: list[SavedRange] | None
    """Of the optimizer's state; None where another rank writes the same."""
    weights: WeightsPart | None
    """None where another rank writes the same."""
    extras: list[Path]
    """Files and folders to put beside the weights, such as a tokenizer's."""
    retention: Retention = KEEP_ALL

    def prepare(self) -> None:
        """Make an empty folder for the checkpoint."""
        if not self.is_first_of_disk:
            return
        writing = writing_path(self.checkpoint)
        shutil.rmtree(writing, ignore_errors=True)
        writing.mkdir(parents=True)

    def write(self, shard: Arrays, weights: Arrays) -> dict[str, WrittenTensor]:
        """Write this rank's values, and note the checksums of the files.

        Args:
            shard: float32, each named "<range's key>/<kind of value>".
            weights: canonical names with whole tensors, unless they are made later.

        Returns:
            Published names with what was written of them.
        """
        writing = writing_path(self.checkpoint)
        files: list[Path] = []
        written: dict[str, WrittenTensor] = {}
        if self.ranges is not None:
            files += write_shard(writing, self.rank, self.ranges, shard, self.steps)
        if self.weights is not None and not self.weights.names:
            written = self._write_weights(weights)
        if self.is_first_of_disk:
            text = json.dumps({"program": PROGRAM, **self.state}, indent=2)
            # Nodes may share the disk without knowing it; they write the same text.
            write_text(writing / STATE_FILE, text, writer=self.rank)
            files.append(writing / STATE_FILE)
        note_files(writing, self.rank, files)
        return written

    def write_made_weights(self) -> dict[str, WrittenTensor]:
        """Write the weights that are made of the shards' files, when all of those are there.

        Weights are their masters rounded, so that no rank has to gather them, nor to keep a copy.
        """
        if self.weights is None or not self.weights.names:
            return {}
        return self._write_weights(self._made_weights(self.weights.names))

    def _made_weights(self, names: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
        written = SavedOptimizer(writing_path(self.checkpoint))
        shapes = self.model.tensor_shapes()
        for name in names:
            whole = tuple(slice(0, size) for size in shapes[name])
            yield name, written.read(name, shapes[name], whole, "master")

    def _write_weights(self, tensors: Arrays) -> dict[str, WrittenTensor]:
        assert self.weights is not None
        writing = writing_path(self.checkpoint)
        written = write_weights.write_weight_files(
            tensors, self.model, writing, label=self.weights.label, dtype=self.weights.dtype
        )
        if self.rank != 0:  # its files may get other names when all are there
            paths = [writing / name for name in _files_of(written)]
            note_files(writing, f"{self.rank}-weights", paths)
        return written

    def publish(
        self, own: Mapping[str, WrittenTensor], everything: Mapping[str, WrittenTensor]
    ) -> None:
        """Complete the checkpoint and give it its name.

        Args:
            own: what this rank has written of the weights.
            everything: what all stages have.
        """
        if self.rank == 0:
            self._complete_weights(own, everything)
        if self.is_first_of_disk:
            publish(self.checkpoint, self.rank)
            limit, keep_every, spared = astuple(self.retention)
            keep_newest(self.checkpoint.parent, limit, keep_every=keep_every, spared=spared)

    def _complete_weights(
        self, own: Mapping[str, WrittenTensor], everything: Mapping[str, WrittenTensor]
    ) -> None:
        assert self.weights is not None, "rank 0 writes the first stage's"
        writing = writing_path(self.checkpoint)
        names = write_weights.finish_weights(
            everything, self.model, writing, dtype=self.weights.dtype
        )
        names |= copy_along(self.extras, writing)
        # The only file of weights has another name by now.
        names |= {name for name in _files_of(own) if (writing / name).exists()}
        files = [writing / name for name in sorted(names)]
        note_files(writing, f"{self.rank}-completed", files)

    def give_up(self) -> None:
        """Remove what has been written."""
        if self.is_first_of_disk:
            shutil.rmtree(writing_path(self.checkpoint), ignore_errors=True)


def _files_of(written: Mapping[str, WrittenTensor]) -> list[str]:
    return sorted({tensor.file for tensor in written.values()})
