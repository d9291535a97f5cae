"""Which implementation serves each operator: decided once, before the first step.

Until then the references serve. `choose` tries what is there on a small input against the
reference, and takes what agrees: on a CPU the operators in C++, on a GPU those in CUDA, and after
them the kernels that Paddle brings.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import paddle
from paddle import Tensor

from llm_pretrain.ops.cuda import library as cuda
from llm_pretrain.ops.native import library as native

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
_CPP, _CUDA, _PADDLE, _REFERENCE = "C++", "CUDA", "Paddle's kernel", "reference"
_FAST = (_CPP, _CUDA, _PADDLE)

_serving: dict[str, Sequence[str]] = {}
"""By operator the implementations that serve it, the best first: the next takes what it doesn't."""


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
    return _serves(_CPP, operator) and native.serves(*(x for x in operands if x is not None))


def is_cuda(operator: str, *operands: Tensor | None) -> bool:
    """Whether the CUDA operator serves operands of such dtypes."""
    return _serves(_CUDA, operator) and cuda.serves(*(x for x in operands if x is not None))


def is_by_paddle(operator: str) -> bool:
    """Whether a kernel of Paddle's serves, for the operands that it takes."""
    return _serves(_PADDLE, operator)


def _serves(implementation: str, operator: str) -> bool:
    return implementation in _serving.get(operator, ())


def serving(operator: str) -> int:
    """A number for what serves an operator: 0 for the reference, else a bit for each other."""
    return sum(1 << bit for bit, name in enumerate(_FAST) if _serves(name, operator))


def use_references() -> None:
    """Let the references serve, as before `choose`."""
    _serving.clear()


@contextmanager
def reference_of(operator: str) -> Iterator[None]:
    """Let the reference of `operator` serve meanwhile."""
    serving = _serving.pop(operator, ())
    try:
        yield
    finally:
        _serving[operator] = serving


def choose(
    switches: Mapping[str, bool | None],
    trials: Mapping[str, Callable[[], None]],
    *,
    is_low: bool = True,
    by_paddle: Collection[str] = (),
) -> list[Choice]:
    """Decide for every operator.

    Args:
        switches: by operator: True asks for the fast one, False for the reference, None for the
            fastest that works here.
        trials: by operator, a function that raises where the fast one disagrees.
        is_low: whether products take operands of 16 bits.
        by_paddle: operators for which Paddle itself brings a fast kernel here.
    """
    use_references()
    choices = []
    for operator in OPERATORS:
        if switches.get(operator) is False:
            choices.append(Choice(operator, _REFERENCE, "switched off in the config"))
            continue
        there, missing = _ours(operator, is_low=is_low)
        if operator in by_paddle:
            there[_PADDLE] = "the fastest here"
        choices.append(_choose(operator, there, missing, trials[operator]))
    return choices


def _ours(operator: str, *, is_low: bool) -> tuple[dict[str, str], str]:
    """Our implementation with what is said of it, if it is there; and why it isn't."""
    on_gpu = cuda.is_device()
    if on_gpu and operator not in cuda.OPERATORS:
        return {}, "Paddle's own serves on a GPU"
    if on_gpu and operator == "attention" and not is_low:
        return {}, "the kernels of attention take bfloat16 and float16"
    if not on_gpu and paddle.get_device() != "cpu":
        return {}, "the C++ operators are for the CPU"
    found, state = cuda.find() if on_gpu else native.find()
    return ({}, state) if found is None else ({_CUDA if on_gpu else _CPP: state}, "")


def _choose(
    operator: str, there: Mapping[str, str], missing: str, trial: Callable[[], None]
) -> Choice:
    """Let serve what passes its trial."""
    passed, problems = [], []
    for implementation in there:
        _serving[operator] = [implementation]
        try:
            trial()
            passed.append(implementation)
        except Exception as error:  # whatever it is, the reference still serves
            problem = str(error).partition("\n")[0]
            problems.append(f"the trial of {implementation} failed: {problem}")
    _serving[operator] = passed
    if passed:
        return Choice(operator, passed[0], "; ".join([there[passed[0]], *problems]))
    return Choice(operator, _REFERENCE, "; ".join(problems) or missing)


def withdraw(choice: Choice) -> Choice:
    """Let the reference serve after all, as other processes of the job serve otherwise."""
    _serving.pop(choice.operator, None)
    return Choice(choice.operator, _REFERENCE, "another process of the job can't do the same")


def table(choices: Iterable[Choice]) -> list[str]:
    """A line per implementation, with its operators."""
    lines: dict[tuple[str, str], list[str]] = {}
    for choice in choices:
        lines.setdefault((choice.implementation, choice.reason), []).append(choice.operator)
    return [
        f"Operators by {implementation}: {', '.join(operators)} ({reason})."
        for (implementation, reason), operators in lines.items()
    ]
