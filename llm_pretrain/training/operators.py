"""Which implementation serves each operator in this run."""

from __future__ import annotations

from collections.abc import Callable

from llm_pretrain.config import ModelArguments, RunConfig
from llm_pretrain.ops import OPERATORS, dispatch
from llm_pretrain.ops.operator import FAST
from llm_pretrain.training.agreement import bounds_over_ranks


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
