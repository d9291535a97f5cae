"""Which implementation serves each operator: decided once, before the first step.

Until then the references serve. `choose` tries every operator of the C++ library on a small input
against its reference, and takes those that agree.
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


def use_references() -> None:
    """Let the references serve, as before `choose`."""
    _native.clear()


@contextmanager
def reference_of(operator: str) -> Iterator[None]:
    """Let the reference of `operator` serve meanwhile."""
    was_native = operator in _native
    _native.discard(operator)
    try:
        yield
    finally:
        if was_native:
            _native.add(operator)


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
        Choice(operator, "Paddle's kernel", "the fastest here")
        if operator in by_paddle
        else _choose(operator, switches.get(operator), trials[operator])
        for operator in OPERATORS
    ]


def _choose(operator: str, wanted: bool | None, trial: Callable[[], None]) -> Choice:
    """Take the C++ operator if it can serve."""
    found, state = library.find()
    if wanted is False:
        return Choice(operator, _REFERENCE, "switched off in the config")
    if paddle.get_device() != "cpu":
        return Choice(operator, _REFERENCE, "the C++ operators are for the CPU")
    if found is None:
        return Choice(operator, _REFERENCE, state)
    _native.add(operator)
    try:
        trial()
    except Exception as error:  # whatever it is, the reference still serves
        _native.discard(operator)
        problem = str(error).partition("\n")[0]
        return Choice(operator, _REFERENCE, f"the trial of the C++ operator failed: {problem}")
    return Choice(operator, "C++", state)


def withdraw(choice: Choice) -> Choice:
    """Let the reference serve after all, as it must in another process of the job."""
    _native.discard(choice.operator)
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
