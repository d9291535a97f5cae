"""Which implementation serves each operator: decided once, before the first step.

Until then the references serve. `choose` has what is there compute a small example as the reference
does, and takes what agrees: on a CPU the operators in C++, on a GPU those in CUDA, and after them
the kernels that Paddle brings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from llm_pretrain.machine import device
from llm_pretrain.ops import OPERATORS
from llm_pretrain.ops.cuda import library as cuda
from llm_pretrain.ops.native import library as native
from llm_pretrain.ops.operator import CPP, CUDA, PADDLE, REFERENCE, Operator


@dataclass(frozen=True)
class Choice:
    """What serves an operator, and why."""

    operator: str
    implementation: str
    reason: str

    @property
    def is_reference(self) -> bool:
        return self.implementation == REFERENCE


def use_references() -> None:
    """Let the references serve, as before `choose`."""
    for operator in OPERATORS.values():
        operator.serve_by()


def choose(switches: Mapping[str, bool | None], dtype: str) -> list[Choice]:
    """Decide for every operator.

    Args:
        switches: by operator: True asks for the fast one, False for the reference, None for the
            fastest that works here.
        dtype: "float32", "bfloat16" or "float16", of products.
    """
    use_references()
    choices = []
    for operator in OPERATORS.values():
        if switches.get(operator.name) is False:
            choices.append(Choice(operator.name, REFERENCE, "switched off in the config"))
            continue
        there, missing = _ours(operator, dtype)
        kernel = operator.implementations[PADDLE]
        if kernel is not None and dtype in kernel.DTYPES and kernel.device_has_kernel():
            there[PADDLE] = "the fastest here"
        choices.append(_choose(operator, there, missing, dtype))
    return choices


def _ours(operator: Operator, dtype: str) -> tuple[dict[str, str], str]:
    """Our implementation with what is said of it, if it is there; and why it isn't."""
    on_gpu = cuda.is_device()
    name = CUDA if on_gpu else CPP
    ours = operator.implementations[name]
    if not on_gpu and device.kind() != "cpu":
        return {}, "the C++ operators are for the CPU"
    if ours is None:
        return {}, "Paddle's own serves on a GPU" if on_gpu else "Paddle's own serves on a CPU"
    dtypes = getattr(ours, "DTYPES", (dtype,))
    if dtype not in dtypes:
        return {}, f"the kernels of {operator.name} take {' and '.join(dtypes)}"
    found, state = cuda.find() if on_gpu else native.find()
    return ({}, state) if found is None else ({name: state}, "")


def _choose(operator: Operator, there: Mapping[str, str], missing: str, dtype: str) -> Choice:
    """Let serve what passes the self-test."""
    # The operators in C++ leave products in float16 to the reference.
    tested_in = "float32" if dtype == "float16" and not cuda.is_device() else dtype
    passed, problems = [], []
    for implementation in there:
        operator.serve_by(implementation)
        try:
            operator.test(tested_in)
            passed.append(implementation)
        except Exception as error:  # whatever it is, the reference still serves
            problem = str(error).partition("\n")[0]
            problems.append(f"the self-test of {implementation} failed: {problem}")
    operator.serve_by(*passed)
    if passed:
        return Choice(operator.name, passed[0], "; ".join([there[passed[0]], *problems]))
    return Choice(operator.name, REFERENCE, "; ".join(problems) or missing)


def withdraw(choice: Choice) -> Choice:
    """Let the reference serve after all, as other processes of the job serve otherwise."""
    OPERATORS[choice.operator].serve_by()
    return Choice(choice.operator, REFERENCE, "another process of the job can't do the same")


def table(choices: Iterable[Choice]) -> list[str]:
    """A line per implementation, with its operators."""
    lines: dict[tuple[str, str], list[str]] = {}
    for choice in choices:
        lines.setdefault((choice.implementation, choice.reason), []).append(choice.operator)
    return [
        f"Operators by {implementation}: {', '.join(operators)} ({reason})."
        for (implementation, reason), operators in lines.items()
    ]
