"""Where a run adds up a weight's gradients, for operators that can add to it themselves.

What the buckets hold is float32. An operator that adds its share there makes no gradient tensor,
whose memory and whose addition are saved, and returns None for the weight instead. Autograd then
still reports that the weight's gradient is complete.
"""

from __future__ import annotations

from collections.abc import Callable

from paddle import Tensor


def offer(weight: Tensor, sum_of_gradients: Callable[[], Tensor | None]) -> None:
    """Say where the gradients of `weight` go: a float32 tensor of its shape, or None."""
    weight.sum_of_gradients = sum_of_gradients


def sum_of_gradients(weight: Tensor) -> Tensor | None:
    """The float32 tensor in which the gradients of `weight` are added up, if there is one."""
    offered: Callable[[], Tensor | None] | None = getattr(weight, "sum_of_gradients", None)
    return None if offered is None else offered()
