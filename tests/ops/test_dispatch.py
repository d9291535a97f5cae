"""The choice of what serves an operator, by times that a clock of the test gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import paddle
import pytest
from paddle import Tensor
from paddle.nn import functional as F

from llm_pretrain.machine import device
from llm_pretrain.ops import OPERATORS, adamw, dispatch
from llm_pretrain.ops.cuda import library
from llm_pretrain.ops.dispatch import Choice
from llm_pretrain.ops.operator import CUDA, HOPPER, PADDLE, REFERENCE, Operator, Work
from llm_pretrain.ops.workload import Workload

WORKLOAD = Workload(
    compute_dtype="float32",
    weight_dtype="float32",
    samples=2,
    positions=6,
    attended=6,
    hidden=16,
    heads=2,
    key_heads=1,
    head_size=8,
    intermediate=24,
    vocabulary=32,
    parameters=100,
    norm="rms_norm",
    activation="silu",
    is_gated=True,
    turned=8,
    pairs_neighbours=False,
    has_slopes=False,
    has_prefix=False,
    has_documents=False,
    keeps_no_scores=False,
)
ACTIVATION = OPERATORS["activation"]


class StandIns:
    """Implementations of the activation for a GPU that is the CPU, and a clock that knows them.

    `micros` are the times on this process; `elsewhere` those on the slowest of the others, where 0
    is no other process.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.micros: dict[str, float] = {}
        self.elsewhere: dict[str, int] = {}
        self.called: list[str] = []
        self.patch = patch
        patch.setattr(library, "is_device", lambda: True)
        patch.setattr(library, "find", lambda: (SimpleNamespace(), "llm_ops_cuda"))
        for operator in OPERATORS.values():
            for name in (CUDA, PADDLE, HOPPER):
                patch.setitem(operator.implementations, name, None)

    def add(self, name: str, micros: float, **options: Any) -> None:
        self.micros[name] = micros
        self.patch.setitem(ACTIVATION.implementations, name, self.module(name, **options))

    def module(
        self,
        name: str,
        *,
        takes: Callable[[Tensor], bool] = lambda x: True,
        factor: Callable[[Tensor], float] = lambda x: 1.0,
    ) -> Any:
        def activation(kind: str, x: Tensor, up: Tensor | None = None) -> Any:
            if not takes(x):
                return NotImplemented
            self.called.append(name)
            functions = {"silu": F.silu, "relu": F.relu, "gelu": F.gelu}
            y = functions.get(kind, lambda x: F.gelu(x, approximate=True))(x)
            return factor(x) * (y if up is None else y * up)

        return SimpleNamespace(
            activation=activation, DTYPES=("float32",), device_has_kernel=lambda: True
        )

    def duration(self, compute: Work) -> int:
        before = len(self.called)
        compute()
        name = self.called[-1] if len(self.called) > before else REFERENCE
        return round(self.micros[name] * 1000)

    def over_ranks(self, costs: dispatch.Costs) -> dispatch.Costs:
        row = costs[list(OPERATORS).index("activation")]
        for name, cost in self.elsewhere.items():
            place = dispatch.IMPLEMENTATIONS.index(name)
            row[place] = max(row[place], cost)
        return costs

    def choice(self, *, switch: bool | None = None, **options: Any) -> Choice:
        options = {"workload": WORKLOAD, **options}
        choices = dispatch.choose(
            {"activation": switch},
            "float32",
            over_ranks=self.over_ranks,
            duration=self.duration,
            **options,
        )
        return next(choice for choice in choices if choice.operator == "activation")


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIns]:
    yield StandIns(monkeypatch)
    dispatch.use_references()


@pytest.mark.parametrize(
    ("cuda", "paddle_", "reference", "serving"),
    [
        (40, 60, 200, (CUDA, PADDLE)),
        (60, 40, 200, (PADDLE, CUDA)),
        (60, 300, 200, (CUDA,)),
        (300, 250, 200, ()),
        (41, 40, 200, (CUDA, PADDLE)),  # alike: the times' noise must not decide
        (201, 250, 200, (CUDA,)),
    ],
)
def test_the_fastest_serves(
    stand_ins: StandIns, cuda: int, paddle_: int, reference: int, serving: tuple[str, ...]
) -> None:
    stand_ins.micros[REFERENCE] = reference
    stand_ins.add(CUDA, cuda)
    stand_ins.add(PADDLE, paddle_)
    choice = stand_ins.choice()
    assert ACTIVATION.serving == serving
    assert choice.implementation == (*serving, REFERENCE)[0]
    times = {CUDA: cuda, PADDLE: paddle_, REFERENCE: reference}
    assert choice.nanoseconds == {name: 1000 * time for name, time in times.items()}


def test_the_lines_say_what_serves_and_all_times(stand_ins: StandIns) -> None:
    stand_ins.micros[REFERENCE] = 12345
    stand_ins.add(CUDA, 40.4)
    stand_ins.add(PADDLE, 1500)
    assert dispatch.table([stand_ins.choice()]) == [
        "Operators by CUDA: activation (llm_ops_cuda).",
        "Timed on the shapes of this run, forward and backward: activation: CUDA 40 µs, "
        "Paddle's kernel 1.5 ms, reference 12.3 ms.",
    ]
    stand_ins.micros[REFERENCE] = 10
    assert dispatch.table([stand_ins.choice()])[0] == (
        "Operators by reference: activation (the fastest here)."
    )


def test_a_switch_that_is_on_leaves_the_reference_out(stand_ins: StandIns) -> None:
    stand_ins.micros[REFERENCE] = 10
    stand_ins.add(CUDA, 40)
    stand_ins.add(PADDLE, 30)
    assert stand_ins.choice(switch=True).implementation == PADDLE
    choice = stand_ins.choice(switch=False)
    assert choice == Choice("activation", REFERENCE, "switched off in the config")


def test_nothing_is_timed_where_there_is_no_choice(stand_ins: StandIns) -> None:
    def never(compute: Work) -> int:
        raise AssertionError("timed")

    stand_ins.duration = never  # type: ignore[method-assign]
    assert stand_ins.choice().nanoseconds == {}
    stand_ins.add(CUDA, 40)
    assert stand_ins.choice(workload=None) == Choice("activation", CUDA, "llm_ops_cuda")
    assert stand_ins.choice(switch=False).is_reference


def test_the_slowest_process_decides(stand_ins: StandIns) -> None:
    """And so all decide alike."""
    stand_ins.micros[REFERENCE] = 200
    stand_ins.add(CUDA, 40)
    stand_ins.add(PADDLE, 60)
    stand_ins.elsewhere = {CUDA: 70_000, PADDLE: 50_000, REFERENCE: 190_000}
    choice = stand_ins.choice()
    assert choice.implementation == PADDLE
    assert choice.nanoseconds == {CUDA: 70_000, PADDLE: 60_000, REFERENCE: 200_000}


def test_what_fails_in_another_process_serves_in_none(stand_ins: StandIns) -> None:
    absent = stand_ins.choice()
    assert absent.is_reference
    stand_ins.micros[REFERENCE] = 200
    stand_ins.add(CUDA, 40)
    stand_ins.add(PADDLE, 60)
    stand_ins.elsewhere = {CUDA: 1 << 62}
    assert stand_ins.choice().implementation == PADDLE
    assert ACTIVATION.serving == (PADDLE,)
    stand_ins.elsewhere = {CUDA: 1 << 62, PADDLE: 1 << 62}
    assert stand_ins.choice().reason == "another process of the job can't do the same"
    assert ACTIVATION.serving == ()


def of_run(x: Tensor) -> bool:
    return x.shape[-1] == WORKLOAD.intermediate


def test_what_is_wrong_on_the_runs_shapes_alone_does_not_serve(stand_ins: StandIns) -> None:
    stand_ins.micros[REFERENCE] = 200
    stand_ins.add(CUDA, 40, factor=lambda x: 1.1 if of_run(x) else 1.0)
    stand_ins.add(PADDLE, 60)
    choice = stand_ins.choice()
    assert ACTIVATION.serving == (PADDLE,)
    assert choice.reason.startswith("the fastest here; CUDA failed: it is off by")
    assert choice.reason.endswith("on this run's shapes")
    stand_ins.add(CUDA, 40, factor=lambda x: float("nan") if of_run(x) else 1.0)
    stand_ins.choice()
    assert ACTIVATION.serving == (PADDLE,)


def test_what_does_not_take_the_runs_operands_serves_for_others(stand_ins: StandIns) -> None:
    stand_ins.micros[REFERENCE] = 200
    stand_ins.add(CUDA, 40, takes=lambda x: not of_run(x))
    stand_ins.add(PADDLE, 60)
    choice = stand_ins.choice()
    assert ACTIVATION.serving == (PADDLE, CUDA)
    assert CUDA not in choice.nanoseconds
    stand_ins.add(PADDLE, 260)
    stand_ins.choice()
    assert ACTIVATION.serving == (CUDA,)


def test_memory_that_is_short_for_one_leaves_the_others(stand_ins: StandIns) -> None:
    stand_ins.micros[REFERENCE] = 200

    def out_of_memory(x: Tensor) -> bool:
        if of_run(x):
            raise MemoryError("out of memory\nand where")
        return True

    stand_ins.add(CUDA, 40, takes=out_of_memory)
    stand_ins.add(PADDLE, 60)
    choice = stand_ins.choice()
    assert ACTIVATION.serving == (PADDLE,)
    assert choice.reason == "the fastest here; CUDA failed: out of memory"


def test_what_is_updated_in_place_is_compared_before_it_is_timed(
    stand_ins: StandIns, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = adamw.adamw_.__wrapped__  # type: ignore[attr-defined]
    monkeypatch.setitem(OPERATORS["adamw"].implementations, CUDA, SimpleNamespace(adamw_=update))
    choices = dispatch.choose(
        {}, "float32", workload=WORKLOAD, duration=lambda compute: len(compute())
    )
    assert OPERATORS["adamw"].serving == (CUDA,)
    assert choices[-1] == Choice("adamw", CUDA, "llm_ops_cuda", {CUDA: 3, REFERENCE: 3})


def test_a_resumed_run_goes_on_with_what_served(stand_ins: StandIns) -> None:
    stand_ins.micros[REFERENCE] = 200
    stand_ins.add(CUDA, 40)
    stand_ins.add(PADDLE, 60)
    choice = stand_ins.choice(recorded={"activation": [PADDLE, CUDA]})
    assert (ACTIVATION.serving, choice.reason) == ((PADDLE, CUDA), "as in the checkpoint")
    assert stand_ins.choice(recorded={"activation": [CUDA, PADDLE]}).reason == "llm_ops_cuda"
    assert stand_ins.choice(recorded={"activation": []}).is_reference
    # What can't serve any more, or is no longer wanted, is chosen anew.
    assert stand_ins.choice(recorded={"activation": [HOPPER]}).implementation == CUDA
    assert stand_ins.choice(recorded={"activation": ["Triton"]}).implementation == CUDA
    assert stand_ins.choice(recorded={"activation": []}, switch=True).implementation == CUDA
    assert stand_ins.choice(recorded={"activation": [PADDLE]}, switch=False).is_reference
    assert stand_ins.choice(recorded={"norm": [CUDA]}).implementation == CUDA


def test_a_time_is_the_median_of_rounds_that_the_device_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Calls are queued, and the device works them off when it is waited for."""
    clock = SimpleNamespace(now=0)
    queued: list[int] = []
    # The first calls compile; one round is disturbed.
    costs = iter([10**9] * 2 + [100] * 4 + [120] * 4 + [9000] * 4 + [110] * 4 + [90] * 4)

    def synchronize() -> None:
        clock.now += sum(queued)
        queued.clear()

    monkeypatch.setattr(device, "synchronize", synchronize)
    monkeypatch.setattr(dispatch.time, "perf_counter_ns", lambda: clock.now)
    assert dispatch.nanoseconds(lambda: queued.append(next(costs)) or []) == 110


OTHER = replace(
    WORKLOAD,
    norm="layer_norm",
    is_gated=False,
    activation="gelu",
    turned=4,
    pairs_neighbours=True,
    has_slopes=True,
    has_prefix=True,
    has_documents=True,
    keeps_no_scores=True,
)


@pytest.mark.parametrize("workload", [WORKLOAD, OTHER])
@pytest.mark.parametrize(
    "name", [name for name, operator in OPERATORS.items() if operator.work(WORKLOAD)]
)
def test_every_timed_operator_gives_the_same_on_the_same_work(
    name: str, workload: Workload
) -> None:
    """Where a run has no such layer there is no work."""
    operator = OPERATORS[name]
    first, second = results(operator, workload), results(operator, workload)
    operator.assert_close(second, first, "float32")
    assert all(float(x.astype("float32").abs().max()) > 0 for x in first)
    with pytest.raises(ArithmeticError, match="on this run's shapes"):
        operator.assert_close([x + 1 for x in first], first, "float32")


def results(operator: Operator, workload: Workload) -> list[Tensor]:
    compute = operator.work(workload)
    assert compute is not None
    found = compute()
    # In place, on what it left: AdamW alone.
    if operator.name != "adamw":
        assert all(bool((x == y).all()) for x, y in zip(found, compute(), strict=True))
    return [paddle.to_tensor(x.numpy()) for x in found]


def test_without_rotation_there_is_nothing_to_time() -> None:
    assert OPERATORS["rotary"].work(replace(WORKLOAD, turned=0)) is None


def test_logits_are_not_weighed_up_where_they_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    from llm_pretrain.ops import linear_cross_entropy
    from llm_pretrain.ops.operator import NotTakenError

    monkeypatch.setattr(linear_cross_entropy, "_MOST_LOGITS", 100)
    compute = OPERATORS["linear_cross_entropy"].work(WORKLOAD)
    assert compute is not None
    with pytest.raises(NotTakenError):
        compute()
