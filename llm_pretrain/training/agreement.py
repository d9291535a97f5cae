"""What all ranks must agree on: the run, what serves each operator, and a signal to stop."""

from __future__ import annotations

import hashlib
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType

import paddle
from paddle import Tensor

from llm_pretrain.config import ConfigError, ModelArguments, RunConfig
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.ops import OPERATORS, dispatch
from llm_pretrain.ops.operator import FAST
from llm_pretrain.parallel.comm import collectives, topology

_OWN_TO_A_NODE = {
    "model_name_or_path",
    "tokenizer_name_or_path",
    "input_dir",
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
        if not self.received:
            # By a thread, since this one may be in the middle of a line.
            threading.Thread(target=self._say, args=(number,)).start()
        self.received = number

    def wish(self) -> Tensor:
        """The signal that any rank has received, float32 [1]; all ranks `agree` on its value."""
        return collectives.all_reduce_world(paddle.full([1], float(self.received)), "max")

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


def choose_operators(run: RunConfig, say: Callable[[str], None]) -> dict[str, str]:
    """Decide for every operator, alike on all ranks, and say what serves which.

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
    choices = _alike_everywhere(dispatch.choose(switches, run.training.compute_dtype))
    for line in dispatch.table(choices):
        say(line)
    missed = [choice for choice in choices if choice.is_reference and switches.get(choice.operator)]
    if missed:
        _say_missing(missed, run.model, say)
    return {choice.operator: choice.implementation for choice in choices}


def _alike_everywhere(choices: list[dispatch.Choice]) -> list[dispatch.Choice]:
    """The choices, but the reference where other implementations serve in other processes."""
    ranges = [bounds_over_ranks(_bits_of_serving(choice.operator)) for choice in choices]
    return [
        choice if least == most or choice.is_reference else dispatch.withdraw(choice)
        for choice, (least, most) in zip(choices, ranges, strict=True)
    ]


def _bits_of_serving(operator: str) -> int:
    """A number for what serves an operator: 0 for the reference, else a bit for each other."""
    return sum(1 << FAST.index(name) for name in OPERATORS[operator].serving)


def _say_missing(
    missed: list[dispatch.Choice], model: ModelArguments, say: Callable[[str], None]
) -> None:
    keys = ", ".join(str(OPERATORS[choice.operator].switch) for choice in missed)
    problem = f"{keys}: no fast operator serves here: {missed[0].reason}"
    if model.strict_ops:
        raise OperatorError(f"{problem}; strict_ops makes that an error.")
    say(f"warning: {problem}.")
