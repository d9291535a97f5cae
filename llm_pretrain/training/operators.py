"""Which implementation serves each operator in this run."""

from __future__ import annotations

from collections.abc import Callable

from llm_pretrain.config import ModelArguments, RunConfig
from llm_pretrain.ops import dispatch
from llm_pretrain.ops.cuda import library as cuda
from llm_pretrain.ops.paddle_attention import device_has_kernel
from llm_pretrain.ops.trials import trials_in
from llm_pretrain.training.agreement import bounds_over_ranks

_SWITCHES = {
    "attention": "use_flash_attention",
    "norm": "use_fused_rms_norm",
    "rotary": "use_fused_rope",
    "linear_cross_entropy": "use_fused_linear_cross_entropy",
}


class OperatorError(ValueError):
    """A fast operator that the config asks for isn't there (`strict_ops`)."""


def choose_operators(run: RunConfig, say: Callable[[str], None]) -> dict[str, str]:
    """Decide for every operator, alike on all ranks, and say what serves which.

    Returns:
        What serves it, by operator.

    Raises:
        OperatorError: with `strict_ops`, an operator that is switched on can't serve.
    """
    wanted = {operator: getattr(run.model, key) for operator, key in _SWITCHES.items()}
    dtype = run.training.compute_dtype
    is_low = dtype != "float32"
    # The operators in C++ leave products in float16 to the reference.
    tried_in = "float32" if dtype == "float16" and not cuda.is_device() else dtype
    choices = dispatch.choose(
        wanted,
        trials_in(tried_in),
        is_low=is_low,
        by_paddle={"attention"} if is_low and device_has_kernel() else (),
    )
    choices = _alike_everywhere(choices)
    for line in dispatch.table(choices):
        say(line)
    missed = [choice for choice in choices if choice.is_reference and wanted.get(choice.operator)]
    if missed:
        _say_missing(missed, run.model, say)
    return {choice.operator: choice.implementation for choice in choices}


def _alike_everywhere(choices: list[dispatch.Choice]) -> list[dispatch.Choice]:
    """The choices, but the reference where other implementations serve in other processes."""
    ranges = [bounds_over_ranks(dispatch.serving(choice.operator)) for choice in choices]
    return [
        choice if least == most or choice.is_reference else dispatch.withdraw(choice)
        for choice, (least, most) in zip(choices, ranges, strict=True)
    ]


def _say_missing(
    missed: list[dispatch.Choice], model: ModelArguments, say: Callable[[str], None]
) -> None:
    keys = ", ".join(_SWITCHES[choice.operator] for choice in missed)
    problem = f"{keys}: no fast operator serves here: {missed[0].reason}"
    if model.strict_ops:
        raise OperatorError(f"{problem}; strict_ops makes that an error.")
    say(f"warning: {problem}.")
