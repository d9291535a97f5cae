"""What all ranks must agree on: the run, what serves each operator, and a signal to stop."""

from __future__ import annotations

import hashlib
import json
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from types import FrameType, TracebackType
from typing import Any

import paddle
from paddle import Tensor

from llm_pretrain.checkpoint.directory import read_state
from llm_pretrain.config import ConfigError, ModelArguments, RunConfig
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.machine import device
from llm_pretrain.ops import OPERATORS, dispatch
from llm_pretrain.ops.workload import Workload
from llm_pretrain.parallel.comm import collectives, topology
from llm_pretrain.parallel.comm.topology import Topology
from llm_pretrain.training.folders import Start

_OWN_TO_A_NODE = {
    "model_name_or_path",
    "tokenizer_name_or_path",
    "input_dir",
    "data_stages",
    "eval_data",
    "data_cache",
    "output_dir",
    "logging_dir",
    "resume_from_checkpoint",
}
"""Paths: each node may have its own."""


def bounds_over_ranks(value: int) -> tuple[int, int]:
    """The smallest and the largest of the ranks' values."""
    bounds = paddle.to_tensor([-value, value], dtype="int64")
    collectives.all_reduce_world(bounds, "max")
    return -int(bounds[0]), int(bounds[1])


def assert_same_run(run: RunConfig, model: ModelConfig) -> None:
    """All ranks must have resolved the same configuration, but for paths.

    Raises:
        ConfigError: they have not.
    """
    values = {key: value for key, value in run.values().items() if key not in _OWN_TO_A_NODE}
    values["until"] = [stage.until for stage in run.data.data_stages or ()]
    digest = hashlib.sha256(repr((sorted(values.items()), model)).encode()).digest()
    smallest, largest = bounds_over_ranks(int.from_bytes(digest[:7], "big"))
    if smallest != largest:
        raise ConfigError(
            [
                f"rank {topology.current().rank}: the ranks have different configurations or "
                "models; give every node the same config file, command line, config.json and "
                "tokenizer (only paths may differ)"
            ]
        )


class StopSignal:
    """SIGTERM and SIGINT as a wish that all ranks learn of at the same step.

    Args:
        say: tells the user at once of the first signal, by its number.
    """

    def __init__(self, say: Callable[[int], None]) -> None:
        self.received = 0
        """What this rank has received."""
        self.agreed = 0
        """What every rank knows of, at the same point of the program."""
        self._say = say
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopSignal:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._receive)
            # The launcher sends its signal several times; a system call that one of them breaks
            # off, such as a barrier's receive, would be an error.
            signal.siginterrupt(number, False)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.received:
            return  # one more signal must not end the process before it has told its status
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _receive(self, number: int, frame: FrameType | None) -> None:
        # The next signal may come while a thread is being started.
        is_first, self.received = not self.received, number
        if is_first:
            # By a thread, since this one may be in the middle of a line.
            threading.Thread(target=self._say, args=(number,)).start()

    def wish(self, *others: Tensor) -> Tensor:
        """The signal that any rank has received, float32 [1]; all ranks `agree` on its value.

        Other numbers, float32 [n], come along: the largest of all ranks', behind the signal.
        """
        own = paddle.full([1], float(self.received))
        return collectives.all_reduce_world(paddle.concat([own, *others]), "max")

    def agree(self, number: float | None = None) -> int:
        """Note what every rank knows of; without a number, ask them all.

        Returns:
            The signal, 0 for none; the same on every rank.
        """
        self.agreed = int(self.wish() if number is None else number)
        if self.agreed and not self.received:
            self._receive(self.agreed, None)
        return self.agreed


class OperatorError(ValueError):
    """A fast operator that the config asks for isn't there (`strict_ops`)."""


def timed_work(run: RunConfig, model: ModelConfig, topology: Topology) -> Workload | None:
    """On what a run's operators are timed; None where there is no choice, as on a CPU."""
    is_chosen = device.kind() == "gpu"
    return Workload.of(run, model, topology.degrees) if is_chosen else None


def choose_operators(
    run: RunConfig,
    say: Callable[[str], None],
    *,
    workload: Workload | None = None,
    recorded: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, str]:
    """Decide for every operator, alike on all ranks, and say what serves which.

    Args:
        workload: on which implementations are timed; None times nothing.
        recorded: what served before, by operator, the first first; the same on all ranks.

    Returns:
        What serves it, by operator.

    Raises:
        OperatorError: with `strict_ops`, an operator that is switched on can't serve.
    """
    switches = {
        name: getattr(run.model, operator.switch)
        for name, operator in OPERATORS.items()
        if operator.switch is not None
    }
    choices = dispatch.choose(
        switches,
        run.training.compute_dtype,
        workload=workload,
        recorded=recorded,
        over_ranks=_largest_over_ranks,
    )
    for line in dispatch.table(choices):
        say(line)
    missed = [choice for choice in choices if choice.is_reference and switches.get(choice.operator)]
    if missed:
        _say_missing(missed, run.model, say)
    return {choice.operator: choice.implementation for choice in choices}


def _largest_over_ranks(table: list[list[int]]) -> list[list[int]]:
    """The largest of the ranks' numbers, in each place of a table."""
    numbers = collectives.all_reduce_world(paddle.to_tensor(table, dtype="int64"), "max")
    return [list(map(int, row)) for row in numbers.tolist()]


def operators_of(workload: Workload | None) -> dict[str, Any]:
    """The part of a checkpoint's origin that says what serves each operator, the first first, and
    on what that was timed; nothing where nothing was."""
    if workload is None:
        return {}
    serving = {name: list(operator.serving) for name, operator in OPERATORS.items()}
    return {"operators": {"serving": serving, "timed_on": _timed_on(workload)}}


def recorded_operators(start: Start, workload: Workload) -> dict[str, list[str]] | None:
    """What served the operators of the run that is resumed, on all ranks what rank 0 finds.

    Times differ from start to start, and a run shall go on as it would have gone without a break.
    None where the device or the shapes are others, so that it can't.
    """
    text = "null"
    if topology.current().rank == 0:
        origin = read_state(start.checkpoints[0]).get("origin") or {}
        before = origin.get("operators") or {}
        if before.get("timed_on") == _timed_on(workload):
            text = json.dumps(before["serving"])
    found: dict[str, list[str]] | None = json.loads(collectives.gather_texts(text)[0])
    return found


def _timed_on(workload: Workload) -> dict[str, Any]:
    return {"device": device.name(), **asdict(workload)}


def _say_missing(
    missed: list[dispatch.Choice], model: ModelArguments, say: Callable[[str], None]
) -> None:
    keys = ", ".join(str(OPERATORS[choice.operator].switch) for choice in missed)
    problem = f"{keys}: no fast operator serves here: {missed[0].reason}"
    if model.strict_ops:
        raise OperatorError(f"{problem}; strict_ops makes that an error.")
    say(f"warning: {problem}.")
