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

from llm_pretrain.parallel import collectives
from llm_pretrain.parallel.collectives import Group, Task
from llm_pretrain.parallel.flat_layout import FlatLayout, Placement


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


class WholeGradients:
    """Whole on every rank until the step."""

    def __init__(self, layout: FlatLayout, summation: Summation) -> None:
        self.layout = layout
        self.summation = summation
        self.flat: Tensor | None = None
        self.sums: Iterator[Task] | None = None
        self.started: Task | None = None

    def add(self, placement: Placement, gradient: Tensor) -> None:
        _add(self.layout.view(self._flat(), placement), gradient)

    def sum_of(self, placement: Placement) -> Tensor | None:
        """Where a parameter's gradients are added up, if that is in float32."""
        flat = self._flat()
        return self.layout.view(flat, placement) if flat.dtype == paddle.float32 else None

    def end_pass(self, *, is_last: bool) -> None:
        """All parameters have had their gradient; `is_last`: the step will bring no more."""
        if is_last:
            self._start()

    def reduce(self) -> Tensor:
        """This rank's shard of the sum over all ranks [shard]."""
        if self.sums is None:
            self._start()
        assert self.sums is not None
        if self.started is not None:
            self.started.wait()
        for task in self.sums:
            task.wait()
        return self.layout.shard_of(self._flat())

    def clear(self) -> None:
        """Begin the next step."""
        self.sums = self.started = None
        if self.summation.is_released:
            self.flat = None
        elif self.flat is not None:
            self.flat.zero_()

    def _flat(self) -> Tensor:
        if self.flat is None:
            self.flat = paddle.zeros([self.layout.padded], self.summation.dtype)
        return self.flat

    def _start(self) -> None:
        """Begin the first sum, the one of the whole tensor where there are several."""
        self.sums = self._sums(self._flat())
        self.started = next(self.sums, None)

    def _sums(self, flat: Tensor) -> Iterator[Task]:
        """Each sum, to be waited for before the next is asked for."""
        shard = self.layout.shard_of(flat)
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


class ShardedGradients:
    """Whole only during a backward pass, from the first gradient of the bucket to the last.

    Args:
        transfers: shared by all buckets of the model.
    """

    def __init__(
        self, layout: FlatLayout, summation: Summation, transfers: TransfersInFlight
    ) -> None:
        self.layout = layout
        self.summation = summation
        self.transfers = transfers
        self.flat: Tensor | None = None
        self.shard: Tensor | None = None

    def add(self, placement: Placement, gradient: Tensor) -> None:
        _add(self.layout.view(self._flat(), placement), gradient)

    def sum_of(self, placement: Placement) -> Tensor | None:
        """Where a parameter's gradients are added up, if that is in float32."""
        flat = self._flat()
        return self.layout.view(flat, placement) if flat.dtype == paddle.float32 else None

    def end_pass(self, *, is_last: bool) -> None:
        """All parameters have had their gradient."""
        if self.flat is not None:
            whole, self.flat = self.flat, None
            part = self.layout.shard_of(whole)
            task = collectives.reduce_scatter(
                part, whole, self.summation.sharding_group, asynchronous=True
            )
            self.transfers.add(task, self, part)

    def keep(self, part: Tensor) -> None:
        """Add what a pass has brought."""
        _add(self._shard(), part)

    def reduce(self) -> Tensor:
        """This rank's shard of the sum over all ranks [shard]."""
        self.end_pass(is_last=True)  # a parameter without gradient leaves its bucket waiting
        self.transfers.finish()
        shard = self._shard()
        for group in self.summation.shard_groups:
            collectives.all_reduce(shard, group)
        return shard

    def clear(self) -> None:
        """Begin the next step."""
        if self.summation.is_released:
            self.shard = None
        elif self.shard is not None:
            self.shard.zero_()

    def _flat(self) -> Tensor:
        if self.flat is None:
            self.flat = paddle.zeros([self.layout.padded], self.summation.dtype)
        return self.flat

    def _shard(self) -> Tensor:
        if self.shard is None:
            self.shard = paddle.zeros([self.layout.shard_size], self.summation.dtype)
        return self.shard


def _add(target: Tensor, gradient: Tensor) -> None:
    """Add in place, in float32 and then rounded where `target` has fewer bits."""
    if target.dtype == paddle.float32:
        target.add_(gradient.astype("float32"))
    else:
        total = target.astype("float32") + gradient.astype("float32")
        paddle.assign(total.astype(target.dtype), target)
