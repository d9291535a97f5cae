"""Which implementation serves each operator: decided once, before the first step.

Until then the references serve. `choose` tries every operator of the C++ library on a small input
against its reference, and takes those that agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
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
    "adamw",
)
_native: set[str] = set()


@dataclass(frozen=True)
class Choice:
    """What serves an operator, and why."""

    operator: str
    implementation: str
    reason: str


class OperatorError(ValueError):
    """An operator that the config asks for isn't there (`strict_ops`)."""


def is_native(operator: str, *operands: Tensor | None) -> bool:
    """Whether the C++ operator serves these operands."""
    return operator in _native and library.serves(*(x for x in operands if x is not None))


def use_references() -> None:
    """Let the references serve, as before `choose`."""
    _native.clear()


def choose(
    switches: Mapping[str, bool | None],
    trials: Mapping[str, Callable[[], None]],
    *,
    strict: bool = False,
) -> list[Choice]:
    """Decide for every operator.

    Args:
        switches: by operator: True asks for the fast one, False for the reference, None for the
            fastest that works here.
        trials: by operator, a function that raises where the fast one disagrees.
        strict: raise instead of falling back where a switch is True.

    Raises:
        OperatorError: strict, and a fast operator that was asked for doesn't serve.
    """
    use_references()
    found, state = library.find()
    on_cpu = paddle.get_device() == "cpu"
    choices = []
    for operator in OPERATORS:
        wanted = switches.get(operator)
        if wanted is False:
            choices.append(Choice(operator, "reference", "switched off in the config"))
            continue
        problem = _problem(operator, trials, state, is_there=found is not None, on_cpu=on_cpu)
        if problem is None:
            choices.append(Choice(operator, "C++", state))
            continue
        if wanted and strict:
            raise OperatorError(f"strict_ops: {operator} can't be served by C++: {problem}.")
        choices.append(Choice(operator, "reference", problem))
    return choices


def _problem(
    operator: str,
    trials: Mapping[str, Callable[[], None]],
    state: str,
    *,
    is_there: bool,
    on_cpu: bool,
) -> str | None:
    """Why the C++ operator can't serve; where it can, it does from now on."""
    if not on_cpu:
        return "the C++ operators are for the CPU"
    if not is_there:
        return state
    _native.add(operator)
    try:
        trials[operator]()
    except Exception as error:  # whatever it is, the reference still serves
        _native.discard(operator)
        return f"its trial failed: {error}"
    return None


def table(choices: Iterable[Choice]) -> list[str]:
    """A line per implementation, with its operators."""
    lines: dict[tuple[str, str], list[str]] = {}
    for choice in choices:
        lines.setdefault((choice.implementation, choice.reason), []).append(choice.operator)
    return [
        f"Operators by {implementation}: {', '.join(operators)} ({reason})."
        for (implementation, reason), operators in lines.items()
    ]
