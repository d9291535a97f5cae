"""Where a run adds up a weight's gradients, for operators that can add to it themselves.

What the buckets hold is float32. An operator that adds its share there makes no gradient tensor,
whose memory and whose addition are saved, and returns None for the weight instead. Autograd then
still reports that the weight's gradient is complete.
"""

from __future__ import annotations

from collections.abc import Callable

from paddle import Tensor

Sum = tuple[Tensor, bool]
"""A float32 tensor of the weight's shape, and whether it holds gradients already. Otherwise what
stands there means nothing, and who asks for it writes all of it."""


def offer(weight: Tensor, sum_of_gradients: Callable[[], Sum | None]) -> None:
    """Say where the gradients of `weight` go."""
    weight.sum_of_gradients = sum_of_gradients


def sum_of_gradients(weight: Tensor) -> Sum | None:
    """Where the gradients of `weight` are added up, if that can be done directly."""
    offered: Callable[[], Sum | None] | None = getattr(weight, "sum_of_gradients", None)
    return None if offered is None else offered()
