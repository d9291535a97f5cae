"""A copy of what one rank saves, in memory of the host that another process can map."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import paddle
from paddle import Tensor
from paddle.utils import dlpack

from llm_pretrain.checkpoint.host_memory import ArrayInMemory, HostMemory
from llm_pretrain.checkpoint.optimizer_state import VALUES, shard_name
from llm_pretrain.checkpoint.safetensors_file import NUMPY_TYPES
from llm_pretrain.checkpoint.save import RangeOfBucket, SavedState, values_on_host
from llm_pretrain.parallel.sharding.pieces import named_pieces

_ALIGNMENT = 4096
_FLOAT32_BYTES = 4


class CopyPlan:
    """Where each value of the state stands in the copy.

    The shards of a bucket are copied whole, and weights where they are gathered.
    """

    def __init__(self, saved: SavedState) -> None:
        self.size = 0
        self.buckets: list[dict[str, ArrayInMemory]] = []
        """Each bucket's shards, by kind of value; [] where another rank writes the same."""
        self.weights: list[ArrayInMemory] = []
        """Of this rank's stage, whole; [] where another rank writes them, or they are made of the
        shards' files."""
        if saved.ranges is not None:
            self.buckets = [
                {name: self._placed(name, "<f4", (bucket.buffer.shard_size,)) for name in VALUES}
                for bucket in saved.optimizer.buckets
            ]
        if saved.weights_part is None or not saved.gathers_weights:
            return
        dtype = NUMPY_TYPES[saved.weights_part.dtype].str
        self.weights = [
            self._placed(piece.name, dtype, piece.shape) for _, piece in named_pieces(saved.stage)
        ]

    def _placed(self, name: str, dtype: str, shape: tuple[int, ...]) -> ArrayInMemory:
        entry = ArrayInMemory(name, dtype, shape, self.size)
        size = math.prod(shape) * np.dtype(dtype).itemsize
        self.size += -(-size // _ALIGNMENT) * _ALIGNMENT
        return entry

    def shards(self, ranges: Sequence[RangeOfBucket]) -> Iterator[ArrayInMemory]:
        """The values of every saved range, named as in the file."""
        for saved, bucket, begin, end in ranges:
            for value in VALUES:
                whole = self.buckets[bucket][value]
                offset = whole.offset + begin * _FLOAT32_BYTES
                yield replace(
                    whole, name=f"{saved.key}/{value}", shape=(end - begin,), offset=offset
                )


class StateCopy:
    """The copy of a rank's state, made while training goes on as far as it can.

    No step changes masters and moments before its gradients are reduced, so that a thread may still
    copy them on a CPU when the next step has begun. What has to be gathered from other ranks, or
    lies on an accelerator, is copied at once.
    """

    def __init__(self, saved: SavedState, plan: CopyPlan) -> None:
        self.saved = saved
        self.plan = plan
        self.memory = HostMemory(
            plan.size,
            shard_name(saved.topology.rank),
            list(plan.shards(saved.ranges or ())),
        )
        self._copying: threading.Thread | None = None

    @paddle.no_grad()
    def begin(self) -> None:
        """Copy the state as it is now; every rank calls it, and `finish` before it changes."""
        states = [tensors for _, tensors in self.saved.optimizer.state()]
        shards = [
            (tensors[value].detach(), self.memory.place(entry))
            for entries, tensors in zip(self.plan.buckets, states, strict=False)
            for value, entry in entries.items()
        ]
        if all(shard.place.is_cpu_place() for shard, _ in shards):
            self._copying = threading.Thread(target=self._copy, args=(shards,), daemon=True)
            self._copying.start()
        else:
            self.memory.populate()
            for shard, place in shards:
                dlpack.from_dlpack(place).copy_(shard, True)
        if not self.saved.gathers_weights:
            return
        places = {entry.name: self.memory.place(entry) for entry in self.plan.weights}
        for name, tensor in self.saved.weights():
            if places:
                np.copyto(places[name], values_on_host(tensor))

    def _copy(self, shards: Sequence[tuple[Tensor, np.ndarray]]) -> None:
        self.memory.populate()
        for shard, place in shards:
            np.copyto(place, np.from_dlpack(shard))

    def finish(self) -> None:
        """Return when the state may change."""
        if self._copying is not None:
            self._copying.join()
            self._copying = None

    def close(self) -> None:
        self.finish()
        self.memory.close()
