"""Which implementation serves each operator: decided once, before the first step.

Until then the references serve. `choose` has what is there compute a small example as the reference
does, and takes what agrees: on a CPU the operators in C++; on a GPU those in CUDA and the kernels
that Paddle brings. Where a run's workload is given, these and the reference are timed on it, and
the fastest serves. All processes of a job decide from the same numbers, those of the slowest.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from paddle import Tensor

from llm_pretrain.machine import device
from llm_pretrain.ops import OPERATORS
from llm_pretrain.ops.cuda import library as cuda
from llm_pretrain.ops.native import library as native
from llm_pretrain.ops.operator import (
    CPP,
    CUDA,
    FAST,
    HOPPER,
    PADDLE,
    REFERENCE,
    NotTakenError,
    Operator,
    Work,
)
from llm_pretrain.ops.workload import Workload

IMPLEMENTATIONS = (*FAST, REFERENCE)

_ABSENT, _UNTIMED = 1 << 62, 1 << 61
"""Costs of what can't serve, and of what can but was not timed, above all nanoseconds."""
_ALIKE = 1.05
"""Up to this ratio two times are taken for the same, so that their noise decides nothing."""
_WARM_UP, _ROUNDS, _CALLS = 2, 5, 4

Costs = list[list[int]]
"""By operator and implementation: nanoseconds, or one of the two above."""


@dataclass(frozen=True)
class Choice:
    """What serves an operator, and why."""

    operator: str
    implementation: str
    reason: str
    nanoseconds: Mapping[str, int] = field(default_factory=dict)
    """That both passes take, by what was timed."""

    @property
    def is_reference(self) -> bool:
        return self.implementation == REFERENCE


def use_references() -> None:
    """Let the references serve, as before `choose`."""
    for operator in OPERATORS.values():
        operator.serve_by()


def nanoseconds(compute: Work) -> int:
    """How long a computation takes once it is under way: the median of some rounds of calls, each
    waited for on the device."""
    for _ in range(_WARM_UP):
        compute()
    found = []
    for _ in range(_ROUNDS):
        device.synchronize()
        begin = time.perf_counter_ns()
        for _ in range(_CALLS):
            compute()
        device.synchronize()
        found.append((time.perf_counter_ns() - begin) // _CALLS)
    return int(statistics.median(found))


def choose(
    switches: Mapping[str, bool | None],
    dtype: str,
    *,
    workload: Workload | None = None,
    recorded: Mapping[str, Sequence[str]] | None = None,
    over_ranks: Callable[[Costs], Costs] = lambda costs: costs,
    duration: Callable[[Work], int] | None = None,
) -> list[Choice]:
    """Decide for every operator.

    Args:
        switches: by operator: True asks for the fast one, False for the reference, None for the
            fastest that works here.
        dtype: "float32", "bfloat16" or "float16", of products.
        workload: of the run; None times nothing, and of what passes the first of `FAST` serves.
        recorded: what served each operator before, the first first; it serves again if it can.
        over_ranks: gives each process the largest of all processes' costs.
        duration: times a computation, in nanoseconds; None is `nanoseconds`.
    """
    use_references()
    candidates = [
        _Candidates(operator, switches.get(operator.name), dtype) for operator in OPERATORS.values()
    ]
    if workload is not None:
        for each in candidates:
            each.time(workload, duration or nanoseconds)
        device.forget_peaks()
    costs = over_ranks([[each.costs[name] for name in IMPLEMENTATIONS] for each in candidates])
    return [
        each.decide(dict(zip(IMPLEMENTATIONS, row, strict=True)), (recorded or {}).get(each.name))
        for each, row in zip(candidates, costs, strict=True)
    ]


class _Candidates:
    """What could serve an operator in this process, tested.

    Args:
        switch: the configuration's, of the operator.
        dtype: of products.
    """

    def __init__(self, operator: Operator, switch: bool | None, dtype: str) -> None:
        self.operator = operator
        self.name = operator.name
        self.switch = switch
        self.states: dict[str, str] = {}
        """By what there is, what is said of it."""
        self.problems: list[str] = []
        self.costs = dict.fromkeys(IMPLEMENTATIONS, _ABSENT)
        self.costs[REFERENCE] = _UNTIMED
        if switch is False:
            self.missing = "switched off in the config"
            return
        self.states, self.missing = _ours(operator, dtype)
        for name in (PADDLE, HOPPER):
            kernel = operator.implementations[name]
            if kernel is not None and dtype in kernel.DTYPES and kernel.device_has_kernel():
                self.states[name] = "the fastest here"
        # The operators in C++ leave products in float16 to the reference.
        tested_in = "float32" if dtype == "float16" and not cuda.is_device() else dtype
        for name in self.states:
            operator.serve_by(name)
            try:
                operator.test(tested_in)
                self.costs[name] = _UNTIMED
            except Exception as error:  # whatever it is, the reference still serves
                self.problems.append(f"the self-test of {name} failed: {_first_line(error)}")
        operator.serve_by()

    def time(self, workload: Workload, duration: Callable[[Work], int]) -> None:
        """Time what has passed, and the reference, whose results all must have."""
        passed = [name for name in FAST if self.costs[name] < _ABSENT]
        expected: list[Tensor] = []
        for name in (REFERENCE, *passed) if passed else ():
            try:
                with self.operator.only_by(name):
                    compute = self.operator.work(workload)
                    if compute is None:
                        return
                    self._compare(name, compute(), expected, workload.compute_dtype)
                    self.costs[name] = duration(compute)
            except NotTakenError:
                continue  # it may serve for other operands
            except Exception as error:  # out of memory, for one
                if name != REFERENCE:
                    self.costs[name] = _ABSENT
                    self.problems.append(f"{name} failed: {_first_line(error)}")
        gc.collect()  # graphs hold what they have computed

    def _compare(self, name: str, found: list[Tensor], expected: list[Tensor], dtype: str) -> None:
        """Leave the reference's results in `expected`; others must be like them."""
        if name == REFERENCE:
            # As they are now: AdamW updates in place.
            expected.extend(x.clone() for x in found)
        elif expected:
            self.operator.assert_close(found, expected, dtype)

    def decide(self, costs: Mapping[str, int], recorded: Sequence[str] | None) -> Choice:
        """Let serve what is best by costs that all processes have."""
        timed = {name: cost for name, cost in costs.items() if cost < _UNTIMED}
        serving = self._best(costs, timed)
        reason = "" if serving else self._why_not(costs, timed)
        if recorded is not None and self._takes_up(recorded, costs):
            reason = reason if list(recorded) == serving else "as in the checkpoint"
            serving = list(recorded)
        self.operator.serve_by(*serving)
        first = serving[0] if serving else REFERENCE
        said = filter(None, [reason or self.states.get(first), *self.problems])
        return Choice(self.name, first, "; ".join(said), timed)

    def _best(self, costs: Mapping[str, int], timed: Mapping[str, int]) -> list[str]:
        """The implementations that serve, the best first: those that are faster than the reference,
        and those that were not timed, for what the others don't take."""
        order = sorted(timed, key=lambda name: timed[name])
        if order:
            alike = [name for name in order if timed[name] <= _ALIKE * timed[order[0]]]
            best = min(alike, key=IMPLEMENTATIONS.index)
            order = [best, *(name for name in order if name != best)]
        if self.switch is True:
            order = [name for name in order if name != REFERENCE]
        if REFERENCE in order:
            order = order[: order.index(REFERENCE)]
        return order + [name for name in FAST if costs[name] == _UNTIMED]

    def _takes_up(self, recorded: Sequence[str], costs: Mapping[str, int]) -> bool:
        """Whether all processes can go on with what served before, and the switch lets them."""
        is_wanted = self.switch is None or self.switch == bool(recorded)
        return is_wanted and all(costs.get(name, _ABSENT) < _ABSENT for name in recorded)

    def _why_not(self, costs: Mapping[str, int], timed: Mapping[str, int]) -> str:
        """Why the reference serves; "" where problems say it."""
        if timed.keys() - {REFERENCE}:
            return "the fastest here"
        if any(self.costs[name] < _ABSENT for name in FAST):
            return "another process of the job can't do the same"
        return self.missing


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


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def table(choices: Iterable[Choice]) -> list[str]:
    """A line per implementation, with its operators; and one with what was timed."""
    lines: dict[tuple[str, str], list[str]] = {}
    times = []
    for choice in choices:
        lines.setdefault((choice.implementation, choice.reason), []).append(choice.operator)
        by_time = sorted(choice.nanoseconds.items(), key=lambda timed: timed[1])
        if by_time:
            shown = ", ".join(f"{name} {_shown(cost)}" for name, cost in by_time)
            times.append(f"{choice.operator}: {shown}")
    said = [
        f"Operators by {implementation}: {', '.join(operators)} ({reason})."
        for (implementation, reason), operators in lines.items()
    ]
    if times:
        said.append(f"Timed on the shapes of this run, forward and backward: {'; '.join(times)}.")
    return said


def _shown(cost: int) -> str:
    return f"{cost / 1e6:.1f} ms" if cost >= 1e6 else f"{cost / 1e3:.0f} µs"
