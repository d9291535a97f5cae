"""How to compute a tensor again, where that is cheaper than to keep it for the backward pass.

Norms and activations cost little beside the products that follow them, and their inputs are kept
anyway: a product keeps the recipe of its operand in place of the operand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from paddle import Tensor


class Recipe(NamedTuple):
    """`compute(*operands)` gives the tensor's values again."""

    compute: Callable[..., Tensor]
    operands: tuple[Tensor, ...]


def attach(y: Tensor, compute: Callable[..., Tensor], *operands: Tensor) -> Tensor:
    """`y`, with its recipe."""
    y.recipe = Recipe(compute, operands)
    return y


def recipe_of(x: Tensor) -> Recipe | None:
    """The recipe of `x`, if it has one."""
    recipe: Recipe | None = getattr(x, "recipe", None)
    return recipe
