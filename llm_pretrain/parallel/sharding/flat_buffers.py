"""Parameters side by side in flat buffers, each cut into one shard for each sharding rank.

A bucket's weights are whole on every rank (`WholeWeights`), or a shard on each and whole only while
in use (`ShardedWeights`). Both answer to the same calls: whoever uses the parameters does so
between `hold` and `release`; whoever has changed the master weights calls `all_gather`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import paddle
from paddle import Tensor, nn

from llm_pretrain import ops
from llm_pretrain.ops import internals
from llm_pretrain.parallel.comm import collectives
from llm_pretrain.parallel.comm.collectives import Group, Task
from llm_pretrain.parallel.sharding.pieces import Piece


@dataclass(frozen=True)
class Placement:
    """A parameter and its range [begin, end) in the flat tensor."""

    parameter: Tensor
    pieces: list[Piece]
    begin: int
    end: int


class FlatBuffer:
    """Where each parameter stands, and which range is this rank's shard.

    Attributes:
        padded: length of the flat tensor: a multiple of the number of shards.
        shard_size, shard_begin: of this rank's shard, in elements.
    """

    def __init__(
        self, parameters: Sequence[tuple[Tensor, list[Piece]]], *, shards: int, rank: int
    ) -> None:
        self.placements: list[Placement] = []
        end = 0
        for parameter, pieces in parameters:
            begin, end = end, end + parameter.size
            self.placements.append(Placement(parameter, pieces, begin, end))
        self.shard_size = -(-end // shards)
        self.shard_begin = rank * self.shard_size
        self.padded = self.shard_size * shards

    def shard_of(self, flat: Tensor) -> Tensor:
        """This rank's shard of a flat tensor [padded], a view of it."""
        return internals.view(flat, self.shard_begin, self.shard_begin + self.shard_size)

    def view(self, flat: Tensor, placement: Placement) -> Tensor:
        """The parameter's range of a flat tensor [padded], in its shape, a view of it."""
        return internals.view(flat, placement.begin, placement.end, placement.parameter.shape)

    def shard_placements(self) -> Iterator[tuple[Placement, int, int]]:
        """Each parameter in this rank's shard, with its range [begin, end) of the flat tensor."""
        for placement in self.placements:
            begin = max(placement.begin, self.shard_begin)
            end = min(placement.end, self.shard_begin + self.shard_size)
            if begin < end:
                yield placement, begin, end


class WholeWeights:
    """Parameters that are views of one flat tensor, which every rank holds.

    Attributes:
        flat: [padded] in the parameters' dtype.
        master: this rank's shard in float32 [shard]; a view of `flat` where that is float32 itself.
    """

    def __init__(self, buffer: FlatBuffer, group: Group, *, overlaps: bool) -> None:
        """`overlaps`: `all_gather` only begins, and the parameters are up to date from `hold`."""
        self.buffer = buffer
        self.group = group
        self.overlaps = overlaps
        self.flat = _flattened(buffer)
        self.gathering: Task | None = None
        _bind(buffer, self.flat)
        self.master = _master(buffer)
        shard = buffer.shard_of(self.flat)
        if self.flat.dtype == paddle.float32:
            internals.share(shard, self.master)
        else:
            self.master.copy_(shard.astype("float32"), False)

    @paddle.no_grad()
    def all_gather(self) -> None:
        """Give every rank the master weights of all."""
        shard = self.buffer.shard_of(self.flat)
        if self.flat.dtype != paddle.float32:
            shard.copy_(self.master.astype(self.flat.dtype), False)
        self.gathering = collectives.all_gather_into(
            self.flat, shard, self.group, asynchronous=self.overlaps
        )
        if not self.overlaps:
            self.hold()

    def prefetch(self) -> None:
        """Nothing: the parameters are here."""

    def hold(self) -> None:
        """Return when the parameters are up to date."""
        if self.gathering is not None:
            self.gathering.wait()
            self.gathering = None

    def release(self) -> None:
        """Return when nothing is under way, so that the master weights may be changed."""
        self.hold()


class ShardedWeights:
    """Parameters without storage but between `hold` and `release` (ZeRO stage 3).

    They can be freed and filled again while the autograd graph refers to them: what it keeps of a
    parameter is the parameter itself, not its storage.

    Attributes:
        flat: [padded] in the parameters' dtype while they are held or on their way, else None.
        master: this rank's shard in float32 [shard].
    """

    def __init__(self, buffer: FlatBuffer, group: Group) -> None:
        self.buffer = buffer
        self.group = group
        self.dtype = buffer.placements[0].parameter.dtype
        self.flat: Tensor | None = _flattened(buffer)
        self.gathering: tuple[Task, Tensor] | None = None
        self.master = _master(buffer)
        self.master.copy_(buffer.shard_of(self.flat).astype("float32"), False)
        self.release()

    @paddle.no_grad()
    def prefetch(self) -> None:
        """Begin to gather the parameters, if they are not here."""
        if self.flat is None:
            self.flat = ops.buffer([self.buffer.padded], self.dtype)
            shard = self.master.detach().astype(self.dtype)
            task = collectives.all_gather_into(self.flat, shard, self.group, asynchronous=True)
            self.gathering = task, shard

    def hold(self) -> None:
        """Return when the parameters are here."""
        self.prefetch()
        if self.gathering is not None:
            self.gathering[0].wait()
            self.gathering = None
            assert self.flat is not None
            _bind(self.buffer, self.flat)

    def release(self) -> None:
        """Free the parameters, whether they were used or only prefetched."""
        if self.gathering is not None:
            self.gathering[0].wait()
        self.gathering = self.flat = None
        for placement in self.buffer.placements:
            internals.free(placement.parameter)

    def all_gather(self) -> None:
        """Nothing but to drop what was gathered of the weights of before."""
        self.release()


@paddle.no_grad()
def _flattened(buffer: FlatBuffer) -> Tensor:
    """The parameters' values in a new flat tensor."""
    flat = paddle.zeros([buffer.padded], buffer.placements[0].parameter.dtype)
    for placement in buffer.placements:
        buffer.view(flat, placement).copy_(placement.parameter, False)
    return flat


def _bind(buffer: FlatBuffer, flat: Tensor) -> None:
    """Make the parameters views of `flat`."""
    for placement in buffer.placements:
        internals.share(buffer.view(flat, placement), placement.parameter)


def _master(buffer: FlatBuffer) -> Tensor:
    return paddle.create_parameter(
        [buffer.shard_size], "float32", default_initializer=nn.initializer.Constant(0.0)
    )
