"""An operator of the models: its reference, what is faster where it serves, and its self-test.

Fast implementations are modules with functions of the names and parameters of the reference's. A
function that doesn't take its operands returns NotImplemented: the next implementation serves then,
and in the end the reference, which takes everything.

With float32 weights and a lower compute dtype (`fp16_opt_level` O1), `ops.linear` and
`ops.attention` round their operands to that dtype. With weights in a lower dtype (O2) their inputs
are already in it. Norms, softmax, rotary embedding and the loss compute in float32 throughout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

import numpy as np
import paddle
from numpy.typing import NDArray
from paddle import Tensor

from llm_pretrain.ops.workload import Workload

CPP, CUDA, REFERENCE = "C++", "CUDA", "reference"
PADDLE, HOPPER = "Paddle's kernel", "Paddle's kernel for Hopper"
FAST = (CPP, CUDA, PADDLE, HOPPER)
"""Of which the first serves where nothing else tells them apart."""

_BOUNDS = {"float32": 1e-5, "bfloat16": 3e-2, "float16": 4e-3}
"""Largest difference that a self-test allows, relative to the largest value."""

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
Work = Callable[[], list[Tensor]]
"""A forward and a backward pass of an operator: its outputs and its operands' gradients."""


class NotTakenError(Exception):
    """An implementation doesn't take the operands of a run."""


class Operator:
    """One operator, whose reference serves until `serve_by` says otherwise.

    Args:
        name: that the log and `dispatch` know it by.
        switch: the key of the configuration that chooses between the fast one and the reference.
        cpp, cuda: our implementations for a CPU and a GPU.
        paddle, hopper: kernels that Paddle brings, the second for GPUs of compute capability 9.
            Such a module says by `device_has_kernel()` whether the device in use has it.
        is_float32: whether its operands are float32 in every run, whatever products compute in.
    """

    def __init__(
        self,
        name: str,
        *,
        switch: str | None = None,
        cpp: ModuleType | None = None,
        cuda: ModuleType | None = None,
        paddle: ModuleType | None = None,
        hopper: ModuleType | None = None,
        is_float32: bool = False,
    ) -> None:
        self.name = name
        self.switch = switch
        self.implementations = {CPP: cpp, CUDA: cuda, PADDLE: paddle, HOPPER: hopper}
        self.is_float32 = is_float32
        self.serving: tuple[str, ...] = ()
        """The implementations that serve, the best first, before the reference."""
        self._fast: dict[str, tuple[Callable[..., Any], ...]] = {}
        self._example: Callable[[Draw], list[Tensor]] | None = None
        self._work: Callable[[Draw, Workload], Work | None] | None = None
        self._is_alone = False

    def reference(self, function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        """A decorator of a function of the operator: its docstring defines what all compute."""
        name = function.__name__
        self._fast[name] = ()

        @wraps(function)
        def serve(*arguments: Parameters.args, **options: Parameters.kwargs) -> Result:
            for fast in self._fast[name]:
                result: Result = fast(*arguments, **options)
                if result is not NotImplemented:
                    return result
                if self._is_alone:
                    raise NotTakenError
            return function(*arguments, **options)

        return serve

    def serve_by(self, *implementations: str) -> None:
        """Let these serve where they take the operands, the first first; without any the reference
        serves alone."""
        self.serving = implementations
        modules = [self.implementations[implementation] for implementation in implementations]
        for name in self._fast:
            self._fast[name] = tuple(
                getattr(module, name) for module in modules if hasattr(module, name)
            )

    @contextmanager
    def by_reference(self) -> Iterator[None]:
        """Let the reference serve alone meanwhile."""
        serving = self.serving
        self.serve_by()
        try:
            yield
        finally:
            self.serve_by(*serving)

    @contextmanager
    def only_by(self, implementation: str) -> Iterator[None]:
        """Let one serve meanwhile, without another in its place: what it doesn't take of the
        functions that it has is a NotTakenError."""
        serving = self.serving
        self.serve_by(*(() if implementation == REFERENCE else (implementation,)))
        self._is_alone = True
        try:
            yield
        finally:
            self._is_alone = False
            self.serve_by(*serving)

    def self_test(self, example: Callable[[Draw], list[Tensor]]) -> None:
        """A decorator of the self-test: what the operator makes of small inputs, with gradients."""
        self._example = example

    def example(self, dtype: str) -> list[NDArray[np.float32]]:
        """What the self-test computes, by what serves now."""
        assert self._example is not None, f"{self.name} has no self-test"
        return [x.astype("float32").numpy() for x in self._example(Draw(dtype))]

    def test(self, dtype: str) -> None:
        """Compute the example by what serves now, and by the reference.

        Args:
            dtype: "float32", "bfloat16" or "float16", of the activations.

        Raises:
            ArithmeticError: they disagree.
        """
        if self.is_float32:
            dtype = "float32"
        found = self.example(dtype)
        with self.by_reference():
            expected = self.example(dtype)
        for ours, theirs in zip(found, expected, strict=True):
            bound = _BOUNDS[dtype] * max(float(np.abs(theirs).max()), 1e-3)
            error = float(np.abs(ours - theirs).max())
            if not error <= bound:
                raise ArithmeticError(f"it is off by {error:.1e}, and {bound:.1e} is allowed")

    def work_of_a_run(self, work: Callable[[Draw, Workload], Work | None]) -> None:
        """A decorator of what is timed: the operator on operands of a run's shapes."""
        self._work = work

    def work(self, workload: Workload) -> Work | None:
        """What a micro-batch of the run gives the operator to do, for what serves then to compute;
        None is nothing. The operands are the same each time."""
        return self._work(Draw(workload.compute_dtype), workload) if self._work else None

    def assert_close(self, found: list[Tensor], expected: list[Tensor], dtype: str) -> None:
        """Compare two results on the device.

        Raises:
            ArithmeticError: they disagree.
        """
        for ours, theirs in zip(found, expected, strict=True):
            ours, theirs = (x.detach().astype("float32") for x in (ours, theirs))
            bound = _BOUNDS["float32" if self.is_float32 else dtype]
            bound *= max(float(theirs.abs().max()), 1e-3)
            error = (ours - theirs).abs()
            # Not the largest: of NaN there may be none.
            if not bool((error <= bound).all()):
                problem = f"it is off by {float(error.max()):.1e}, and {bound:.1e} is allowed"
                raise ArithmeticError(f"{problem} on this run's shapes")


_LARGEST_DRAW = 1 << 16
"""Numbers that are drawn for one operand; more would take longer than the operators."""


class Draw:
    """Numbers for a self-test, the same each time, and other ones for every operand.

    Paddle's generator, which training draws from, is left alone.
    """

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype
        self.random = np.random.default_rng(1)

    def __call__(self, *shape: int) -> Tensor:
        """An operand in the dtype of the activations, which gets a gradient."""
        return self._tensor(shape, self.dtype)

    def in_float32(self, *shape: int) -> Tensor:
        return self._tensor(shape, "float32")

    def with_gradients(self, outputs: list[Tensor], operands: list[Tensor]) -> list[Tensor]:
        """The outputs, and the operands' gradients of a loss that weighs every output."""
        total = sum((y.astype("float32") * self.in_float32(*y.shape)).sum() for y in outputs)
        paddle.autograd.backward([total])
        return [*outputs, *(operand.grad for operand in operands)]

    def large(self, dtype: str, *shape: int) -> Tensor:
        """An operand of a run's size: numbers that come again and again. It gets a gradient."""
        size = math.prod(shape)
        values = self.random.standard_normal(min(size, _LARGEST_DRAW), dtype=np.float32)
        repeated = paddle.to_tensor(values).tile([-(-size // len(values))])
        tensor = repeated[:size].reshape(list(shape)).astype(dtype)
        tensor.stop_gradient = False
        return tensor

    def work(self, compute: Callable[..., list[Tensor]], *operands: Tensor) -> Work:
        """`compute(*operands)` forward and backward, from gradients of the outputs that are drawn
        when they are first known."""
        gradients: list[Tensor] = []

        def both_passes() -> list[Tensor]:
            outputs = compute(*operands)
            if not gradients:
                dtypes = [str(y.dtype).removeprefix("paddle.") for y in outputs]
                drawn = (self.large(d, *y.shape) for d, y in zip(dtypes, outputs, strict=True))
                gradients.extend(gradient.detach() for gradient in drawn)
            return [*outputs, *paddle.grad(outputs, list(operands), gradients)]

        return both_passes

    def _tensor(self, shape: tuple[int, ...], dtype: str) -> Tensor:
        values = self.random.standard_normal(shape, dtype=np.float32)
        tensor = paddle.to_tensor(values).astype(dtype)
        tensor.stop_gradient = False
        return tensor


LOW = {"bfloat16": paddle.bfloat16, "float16": paddle.float16}
"""The dtypes of 16 bits, by name."""
_compute_dtype: paddle.dtype | None = None


def set_compute_dtype(name: str) -> None:
    """Compute products in "float32" (as they come), "bfloat16" or "float16"."""
    global _compute_dtype
    assert name == "float32" or name in LOW, name
    _compute_dtype = LOW.get(name)


def operand_dtype(x: Tensor) -> paddle.dtype:
    """The dtype that `x` has as an operand of a product."""
    return x.dtype if _compute_dtype is None else _compute_dtype


def to_compute_dtype(x: Tensor) -> Tensor:
    """`x` as an operand of a product."""
    if _compute_dtype is None or x.dtype == _compute_dtype:
        return x
    return x.astype(_compute_dtype)


def in_float32_on_cpu(operator: Callable[..., Tensor], *operands: Tensor) -> Tensor:
    """`operator(*operands)`, of operands that all have one dtype.

    Paddle's CPU kernels for bfloat16 and float16 are few and have no products. There the operator
    computes in float32 and its result is rounded, so that every precision runs on a laptop.
    """
    dtype = operands[0].dtype
    if dtype in LOW.values() and operands[0].place.is_cpu_place():
        return operator(*(operand.astype("float32") for operand in operands)).astype(dtype)
    return operator(*operands)
