"""A bucket's gradients: added up as the backward pass produces them, then summed over the ranks.

One reduce-scatter leaves each sharding rank the sum of its shard. All further sums are taken on
the shard. `WholeGradients` do this once a step; `ShardedGradients` after every backward pass, so
that between passes a rank holds no more than its shard (Rajbhandari et al., arXiv:1910.02054,
stages 1 and 2).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import paddle
from paddle import Tensor

from llm_pretrain import ops
from llm_pretrain.ops import internals
from llm_pretrain.parallel.comm import collectives
from llm_pretrain.parallel.comm.collectives import Group, Task
from llm_pretrain.parallel.sharding.flat_buffers import FlatBuffer, Placement


@dataclass(frozen=True)
class Summation:
    """How the gradients of a bucket are summed."""

    dtype: str
    sharding_group: Group
    """The ranks that share the flat tensor."""
    shard_groups: tuple[Group, ...]
    """Over which each shard is summed further, one after another."""
    is_released: bool
    """Whether no memory is kept from one step to the next."""


class GradientSums:
    """The sum of every parameter's gradients, in one flat tensor [padded].

    Sums begin with their first gradient, so that what was there need not be cleared.
    """

    def __init__(self, buffer: FlatBuffer, flat: Tensor) -> None:
        self.buffer = buffer
        self.flat = flat
        self.begun: set[int] = set()
        end = buffer.placements[-1].end
        if end < buffer.padded:
            internals.view(self.flat, end, buffer.padded).zero_()

    def add(self, placement: Placement, gradient: Tensor) -> None:
        place, has_begun = self.place_of(placement)
        if has_begun:
            _add(place, gradient)
        else:
            place.copy_(gradient.astype(place.dtype), False)

    def place_of(self, placement: Placement) -> tuple[Tensor, bool]:
        """The sum so far, to which the caller adds, and whether it has any gradient yet."""
        has_begun = placement.begin in self.begun
        self.begun.add(placement.begin)
        return self.buffer.view(self.flat, placement), has_begun

    def complete(self) -> Tensor:
        """All sums; those without a gradient are zero."""
        for placement in self.buffer.placements:
            if placement.begin not in self.begun:
                self.buffer.view(self.flat, placement).zero_()
        return self.flat


class _Gradients:
    """Gradients that stand whole in `sums` from the first that a backward pass brings."""

    def __init__(self, buffer: FlatBuffer, summation: Summation) -> None:
        self.buffer = buffer
        self.summation = summation
        self.whole: GradientSums | None = None

    @property
    def sums(self) -> GradientSums:
        if self.whole is None:
            self.whole = GradientSums(self.buffer, self._flat())
        return self.whole

    def _flat(self) -> Tensor:
        """A tensor [padded] for the sums."""
        return paddle.empty([self.buffer.padded], self.summation.dtype)


class WholeGradients(_Gradients):
    """Whole on every rank until the step."""

    def __init__(self, buffer: FlatBuffer, summation: Summation) -> None:
        super().__init__(buffer, summation)
        self.reductions: Iterator[Task] | None = None
        self.started: Task | None = None

    def end_pass(self, *, is_last: bool) -> None:
        """All parameters have had their gradient; `is_last`: the step will bring no more."""
        if is_last:
            self._start()

    def reduce(self) -> Tensor:
        """This rank's shard of the sum over all ranks [shard]."""
        if self.reductions is None:
            self._start()
        assert self.reductions is not None
        if self.started is not None:
            self.started.wait()
        for task in self.reductions:
            task.wait()
        return self.buffer.shard_of(self.sums.flat)

    def clear(self) -> None:
        """Begin the next step."""
        self.reductions = self.started = None
        if self.summation.is_released:
            self.whole = None
        elif self.whole is not None:
            self.whole.begun.clear()

    def _start(self) -> None:
        """Begin the first sum, the one of the whole tensor where there are several."""
        self.reductions = self._reductions(self.sums.complete())
        self.started = next(self.reductions, None)

    def _reductions(self, flat: Tensor) -> Iterator[Task]:
        """Each sum over ranks, to be waited for before the next is asked for."""
        shard = self.buffer.shard_of(flat)
        sharding_group = self.summation.sharding_group
        if not collectives.is_alone(sharding_group):
            yield collectives.reduce_scatter(shard, flat, sharding_group, asynchronous=True)
        for group in self.summation.shard_groups:
            if not collectives.is_alone(group):
                yield collectives.start_all_reduce(shard, group)


class TransfersInFlight:
    """Reduce-scatters that go on beside the backward pass.

    Each keeps a bucket of whole gradients alive, so that only `limit` may be under way.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.transfers: deque[tuple[Task, ShardedGradients, Tensor]] = deque()

    def add(self, task: Task, owner: ShardedGradients, part: Tensor) -> None:
        """When `task` is done, `part` is added to the owner's shard."""
        self.transfers.append((task, owner, part))
        self.finish(self.limit)

    def finish(self, remaining: int = 0) -> None:
        """Wait, oldest first, until `remaining` are left."""
        while len(self.transfers) > remaining:
            task, owner, part = self.transfers.popleft()
            task.wait()
            owner.keep(part)


class ShardedGradients(_Gradients):
    """Whole only during a backward pass, from the first gradient of the bucket to the last.

    Args:
        transfers: shared by all buckets of the model.
    """

    def __init__(
        self, buffer: FlatBuffer, summation: Summation, transfers: TransfersInFlight
    ) -> None:
        super().__init__(buffer, summation)
        self.transfers = transfers
        self.shard: Tensor | None = None
        self.has_begun = False
        """Whether the step's sum has any gradient yet."""

    def end_pass(self, *, is_last: bool) -> None:
        """All parameters have had their gradient."""
        if self.whole is not None:
            whole, self.whole = self.whole.complete(), None
            part = self.buffer.shard_of(whole)
            task = collectives.reduce_scatter(
                part, whole, self.summation.sharding_group, asynchronous=True
            )
            self.transfers.add(task, self, part)

    def _flat(self) -> Tensor:
        if self.summation.is_released:
            return super()._flat()
        return ops.buffer([self.buffer.padded], getattr(paddle, self.summation.dtype))

    def keep(self, part: Tensor) -> None:
        """Add what a pass has brought."""
        if self.has_begun:
            _add(self._shard(), part)
        else:
            self._shard().copy_(part, False)
        self.has_begun = True

    def reduce(self) -> Tensor:
        """This rank's shard of the sum over all ranks [shard]."""
        self.end_pass(is_last=True)  # a parameter without gradient leaves its bucket waiting
        self.transfers.finish()
        shard = self._shard()
        if not self.has_begun:
            shard.zero_()
        for group in self.summation.shard_groups:
            collectives.all_reduce(shard, group)
        return shard

    def clear(self) -> None:
        """Begin the next step."""
        self.has_begun = False
        if self.summation.is_released:
            self.shard = None

    def _shard(self) -> Tensor:
        if self.shard is None:
            self.shard = paddle.empty([self.buffer.shard_size], self.summation.dtype)
        return self.shard


def _add(target: Tensor, gradient: Tensor) -> None:
    """Add in place, in float32 and then rounded where `target` has fewer bits."""
    if target.dtype == paddle.float32:
        target.add_(gradient.astype("float32"))
    else:
        total = target.astype("float32") + gradient.astype("float32")
        paddle.assign(total.astype(target.dtype), target)
