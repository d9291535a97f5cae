"""Which implementation serves each operator: decided once, before the first step.

Until then the references serve. `choose` tries every operator of the C++ library, and the kernels
that Paddle brings, on a small input against the reference, and takes those that agree.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import paddle
from paddle import Tensor

from llm_pretrain.ops.native import library

OPERATORS = (
    "linear",
    "norm",
    "rotary",
    "activation",
    "attention",
    "embedding",
    "linear_cross_entropy",
    "sum_of_squares",
    "adamw",
)
_REFERENCE = "reference"
_native: set[str] = set()
_by_paddle: set[str] = set()


@dataclass(frozen=True)
class Choice:
    """What serves an operator, and why."""

    operator: str
    implementation: str
    reason: str

    @property
    def is_reference(self) -> bool:
        return self.implementation == _REFERENCE


def is_native(operator: str, *operands: Tensor | None) -> bool:
    """Whether the C++ operator serves these operands."""
    return operator in _native and library.serves(*(x for x in operands if x is not None))


def is_by_paddle(operator: str) -> bool:
    """Whether a kernel of Paddle's serves, for the operands that it takes."""
    return operator in _by_paddle


def use_references() -> None:
    """Let the references serve, as before `choose`."""
    _native.clear()
    _by_paddle.clear()


@contextmanager
def reference_of(operator: str) -> Iterator[None]:
    """Let the reference of `operator` serve meanwhile."""
    serving = [chosen for chosen in (_native, _by_paddle) if operator in chosen]
    _leave_to_reference(operator)
    try:
        yield
    finally:
        for chosen in serving:
            chosen.add(operator)


def _leave_to_reference(operator: str) -> None:
    _native.discard(operator)
    _by_paddle.discard(operator)


def choose(
    switches: Mapping[str, bool | None],
    trials: Mapping[str, Callable[[], None]],
    *,
    by_paddle: Collection[str] = (),
) -> list[Choice]:
    """Decide for every operator.

    Args:
        switches: by operator: True asks for the fast one, False for the reference, None for the
            fastest that works here.
        trials: by operator, a function that raises where the fast one disagrees.
        by_paddle: operators for which Paddle itself brings a fast kernel here.
    """
    use_references()
    return [
        _choose(
            operator, switches.get(operator), trials[operator], has_kernel=operator in by_paddle
        )
        for operator in OPERATORS
    ]


def _choose(
    operator: str, wanted: bool | None, trial: Callable[[], None], *, has_kernel: bool
) -> Choice:
    """Take Paddle's kernel or the C++ operator if it can serve."""
    if wanted is False:
        return Choice(operator, _REFERENCE, "switched off in the config")
    if has_kernel:
        return _try(operator, "Paddle's kernel", "the fastest here", trial, _by_paddle)
    if paddle.get_device() != "cpu":
        return Choice(operator, _REFERENCE, "the C++ operators are for the CPU")
    found, state = library.find()
    if found is None:
        return Choice(operator, _REFERENCE, state)
    return _try(operator, "C++", state, trial, _native)


def _try(
    operator: str, implementation: str, reason: str, trial: Callable[[], None], serving: set[str]
) -> Choice:
    serving.add(operator)
    try:
        trial()
    except Exception as error:  # whatever it is, the reference still serves
        serving.discard(operator)
        problem = str(error).partition("\n")[0]
        return Choice(operator, _REFERENCE, f"the trial of {implementation} failed: {problem}")
    return Choice(operator, implementation, reason)


def withdraw(choice: Choice) -> Choice:
    """Let the reference serve after all, as it must in another process of the job."""
    _leave_to_reference(choice.operator)
    return Choice(choice.operator, _REFERENCE, "another process of the job can't do better")


def table(choices: Iterable[Choice]) -> list[str]:
    """A line per implementation, with its operators."""
    lines: dict[tuple[str, str], list[str]] = {}
    for choice in choices:
        lines.setdefault((choice.implementation, choice.reason), []).append(choice.operator)
    return [
        f"Operators by {implementation}: {', '.join(operators)} ({reason})."
        for (implementation, reason), operators in lines.items()
    ]
