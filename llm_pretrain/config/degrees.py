"""The degrees of a job from those that a config names, and the ranks along each axis."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llm_pretrain.config.argument_types import ConfigError
from llm_pretrain.config.training_arguments import TrainingArguments


def divisors(number: int) -> list[int]:
    """All divisors of a positive `number`, in ascending order."""
    small = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)})


def nearest(value: int, choices: Iterable[int]) -> list[int]:
    """The greatest of `choices` up to `value` and the least from there on, where there are such."""
    ordered = sorted(choices)
    below = [choice for choice in ordered if choice <= value][-1:]
    above = [choice for choice in ordered if choice >= value][:1]
    return sorted({*below, *above})


def nearest_multiples(value: int, factor: int) -> list[int]:
    """The positive multiples of `factor` around `value`."""
    below = value // factor * factor
    return [multiple for multiple in (below, below + factor) if multiple > 0]


def either(choices: Iterable[int]) -> str:
    """`1, 2 or 4`."""
    *others, last = map(str, choices)
    return f"{', '.join(others)} or {last}" if others else last


MOST_PROCESSES = 1 << 20


@dataclass(frozen=True)
class Degrees:
    """Processes along each axis, all at least 1.

    All but `virtual_pipeline`, which counts chunks within one process, multiply to the world size.
    """

    data: int
    sharding: int
    tensor: int
    pipeline: int
    sep: int
    context: int
    virtual_pipeline: int

    @property
    def dataset(self) -> int:
        """Number of ranks that see different samples."""
        return self.data * self.sharding

    @property
    def sequence(self) -> int:
        """Number of ranks that hold parts of the same sequences."""
        return self.sep * self.context

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return self.data * self.sharding * self.tensor * self.pipeline * self.sequence


def smallest_world_size(training: TrainingArguments) -> int:
    """The fewest processes that the named degrees can be had with."""
    data, taken = training.data_parallel_degree, math.prod(_named(training).values())
    # Sharding ranks are data-parallel too, and may be meant.
    return taken * data if data > 1 and _sharding_left(training, data) else taken


def _sharding_left(training: TrainingArguments, data: int) -> bool:
    """Whether a data-parallel degree asks for more processes than the sharding degree names."""
    return not training.sharding or training.sharding_parallel_degree != data


def _named(training: TrainingArguments) -> dict[str, int]:
    """The degrees that a config names itself."""
    named = {
        "tensor_parallel_degree": max(training.tensor_parallel_degree, 1),
        "pipeline_parallel_degree": max(training.pipeline_parallel_degree, 1),
        "sep_parallel_degree": max(training.sep_parallel_degree, 1),
        "context_parallel_degree": max(training.context_parallel_degree, 1),
    }
    if training.sharding and training.sharding_parallel_degree > 1:
        named["sharding_parallel_degree"] = training.sharding_parallel_degree
    return named


def resolve_degrees(training: TrainingArguments, world_size: int) -> Degrees:
    """All degrees for `world_size` processes, by PaddleNLP's rules.

    -1 stands for 1; for sharding, where a stage is chosen, for all processes that are left. Data
    parallelism takes what the named degrees leave. A sharding degree without a stage is plain data
    parallelism.

    Raises:
        ConfigError: the degrees do not multiply to the world size.
    """
    if not 1 <= world_size <= MOST_PROCESSES:
        raise ConfigError([f"world size {world_size}: a run has 1 to {MOST_PROCESSES} processes"])
    named = _named(training)
    taken = math.prod(named.values())
    if world_size % taken:
        raise ConfigError([_misfit(named, taken, world_size)])
    left = world_size // taken
    sharding = named.get("sharding_parallel_degree", 1)
    if training.sharding and training.sharding_parallel_degree == -1:
        sharding, left = left, 1
    data = training.data_parallel_degree
    if data != -1 and data not in (left, left * sharding):
        shared = f", {left * sharding} with sharding" if sharding > 1 else ""
        raise ConfigError(
            [
                f"data_parallel_degree {data}: the other degrees leave {left} of {world_size} "
                f"processes{shared}; set it to that, or to -1"
            ]
        )
    return Degrees(
        data=left,
        sharding=sharding,
        tensor=named["tensor_parallel_degree"],
        pipeline=named["pipeline_parallel_degree"],
        sep=named["sep_parallel_degree"],
        context=named["context_parallel_degree"],
        virtual_pipeline=training.virtual_stages,
    )


def _misfit(named: dict[str, int], taken: int, world_size: int) -> str:
    """What is wrong with degrees that take `taken` processes or a multiple, and what would fit."""
    product = " × ".join(f"{key} {degree}" for key, degree in named.items() if degree > 1)
    changes = [
        f"{key} to {either(nearest(degree, divisors(world_size * degree // taken)))}"
        for key, degree in named.items()
        if degree > 1 and world_size % (taken // degree) == 0
    ]
    change = (
        f"set {', or '.join(changes)}"
        if changes
        else f"choose degrees whose product is {either(nearest(taken, divisors(world_size)))}"
    )
    launch = (
        f" (python -m paddle.distributed.launch --nproc_per_node {taken} …)"
        if world_size == 1
        else ""
    )
    return (
        f"{product} needs {taken} processes or a multiple of it, but the world size is "
        f"{world_size}; start {either(nearest_multiples(world_size, taken))} processes{launch}, "
        f"or {change}"
    )


# Fleet's axes, outermost first: ranks of the last axis are neighbours.
ORDERS: dict[str, tuple[str, ...]] = {
    "pp_first": ("data", "pipeline", "sharding", "sep", "tensor"),
    "sharding_first": ("data", "sharding", "pipeline", "sep", "tensor"),
}


def axis_sizes(degrees: Degrees) -> dict[str, int]:
    """Ranks along each axis of `ORDERS`; the context axis takes the place of the sep axis, which
    excludes it."""
    return {
        "data": degrees.data,
        "pipeline": degrees.pipeline,
        "sharding": degrees.sharding,
        "sep": degrees.sequence,
        "tensor": degrees.tensor,
    }


def rank_groups(degrees: Degrees, order: str) -> dict[str, list[list[int]]]:
    """For every axis of more than one process, the groups of ranks that differ only along it."""
    sizes = axis_sizes(degrees)
    axes = ORDERS[order]
    return {
        axis: _groups([sizes[name] for name in axes], axes.index(axis))
        for axis in axes
        if sizes[axis] > 1
    }


def _groups(shape: Sequence[int], axis: int) -> list[list[int]]:
    stride = math.prod(shape[axis + 1 :])
    others = [range(size) if i != axis else range(1) for i, size in enumerate(shape)]
    groups = []
    for place in itertools.product(*others):
        first = sum(index * math.prod(shape[i + 1 :]) for i, index in enumerate(place))
        groups.append([first + k * stride for k in range(shape[axis])])
    return groups
