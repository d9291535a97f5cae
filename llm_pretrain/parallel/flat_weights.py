"""A bucket's weights: whole on every rank, or a shard on each and whole only while in use.

Both kinds answer to the same calls. Whoever uses the parameters does so between `hold` and
`release`; whoever has changed the master weights calls `spread`.
"""

from __future__ import annotations

import paddle
from paddle import Tensor, nn

from llm_pretrain.parallel import collectives
from llm_pretrain.parallel.collectives import Group, Task
from llm_pretrain.parallel.flat_layout import FlatLayout


class WholeWeights:
    """Parameters that are views of one flat tensor, which every rank holds.

    Attributes:
        flat: [padded] in the parameters' dtype.
        master: this rank's shard in float32 [shard]; a view of `flat` where that is float32 itself.
    """

    def __init__(self, layout: FlatLayout, group: Group, *, overlaps: bool) -> None:
        """`overlaps`: `spread` returns at once, and the parameters are up to date from `hold`."""
        self.layout = layout
        self.group = group
        self.overlaps = overlaps
        self.flat = _packed(layout)
        self.spreading: Task | None = None
        _bind(layout, self.flat)
        self.master = _master(layout)
        shard = layout.shard_of(self.flat)
        if self.flat.dtype == paddle.float32:
            shard._share_buffer_to(self.master)
        else:
            self.master.copy_(shard.astype("float32"), True)

    @paddle.no_grad()
    def spread(self) -> None:
        """Give every rank the master weights of all."""
        shard = self.layout.shard_of(self.flat)
        if self.flat.dtype != paddle.float32:
            shard.copy_(self.master.astype(self.flat.dtype), True)
        self.spreading = collectives.all_gather_into(
            self.flat, shard, self.group, asynchronous=self.overlaps
        )
        if not self.overlaps:
            self.hold()

    def prefetch(self) -> None:
        """Nothing: the parameters are here."""

    def hold(self) -> None:
        """Return when the parameters are up to date."""
        if self.spreading is not None:
            self.spreading.wait()
            self.spreading = None

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

    def __init__(self, layout: FlatLayout, group: Group) -> None:
        self.layout = layout
        self.group = group
        self.dtype = layout.placements[0].parameter.dtype
        self.flat: Tensor | None = _packed(layout)
        self.gathering: tuple[Task, Tensor] | None = None
        self.master = _master(layout)
        self.master.copy_(layout.shard_of(self.flat).astype("float32"), True)
        self.release()

    @paddle.no_grad()
    def prefetch(self) -> None:
        """Begin to gather the parameters, if they are not here."""
        if self.flat is None:
            self.flat = paddle.empty([self.layout.padded], self.dtype)
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
            _bind(self.layout, self.flat)

    def release(self) -> None:
        """Free the parameters, whether they were used or only prefetched."""
        if self.gathering is not None:
            self.gathering[0].wait()
        self.gathering = self.flat = None
        for placement in self.layout.placements:
            placement.parameter._clear_data()

    def spread(self) -> None:
        """Nothing but to drop what was gathered of the weights of before."""
        self.release()


@paddle.no_grad()
def _packed(layout: FlatLayout) -> Tensor:
    """The parameters' values in a new flat tensor."""
    flat = paddle.zeros([layout.padded], layout.placements[0].parameter.dtype)
    for placement in layout.placements:
        layout.view(flat, placement).copy_(placement.parameter, True)
    return flat


def _bind(layout: FlatLayout, flat: Tensor) -> None:
    """Make the parameters views of `flat`."""
    for placement in layout.placements:
        layout.view(flat, placement)._share_buffer_to(placement.parameter)


def _master(layout: FlatLayout) -> Tensor:
    return paddle.create_parameter(
        [layout.shard_size], "float32", default_initializer=nn.initializer.Constant(0.0)
    )
