"""An operator's values and gradients, by what serves it now; and an input that two ranks share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import paddle
from paddle import Tensor


def normal(dtype: str, *shape: int) -> Tensor:
    values = np.random.default_rng(shape).standard_normal(shape, dtype=np.float32)
    return paddle.to_tensor(values).astype(dtype)


def results(operator: Callable, operands: list[Tensor]) -> list[np.ndarray]:
    """Outputs, and gradients under weights of the outputs, of which some are negative."""
    inputs = [operand.detach().clone() for operand in operands]
    for x in inputs:
        x.stop_gradient = False
    outputs = operator(*inputs)
    outputs = list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
    total = sum((y.astype("float32") * normal("float32", *y.shape)).sum() for y in outputs)
    total.backward()
    assert [x.grad.dtype for x in inputs] == [x.dtype for x in inputs]
    return [x.astype("float32").numpy() for x in (*outputs, *(x.grad for x in inputs))]


def close(found: list[np.ndarray], expected: list[np.ndarray], bound: float) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() <= bound * max(1e-6, np.abs(theirs).max())


class Halves:
    """The input of linear maps that two ranks share, of which the other has the same half."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def gather(self, x: Tensor) -> Tensor:
        return paddle.concat([x, x])

    def start_sum(self, dwhole: Tensor) -> Halves:
        self.events.append("start")
        first, second = dwhole.astype("float32").chunk(2)
        self.sum = (first + second).astype(dwhole.dtype)
        return self

    def wait(self) -> Tensor:
        self.events.append("wait")
        return self.sum
