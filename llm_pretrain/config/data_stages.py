"""Data in stages: what somebody writes of them, and how many of a run's samples each has."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

from llm_pretrain.config.argument_types import Arguments, DataPath, Number, shown


class DataStage(Arguments):
    """A part of a run, and the blend that it is trained on."""

    until: Number | None = Field(None, description="Tokens of the run at which it ends.")
    blend: DataPath = Field(description="Written as input_dir is.")


def _stages(value: Any) -> Any:
    if not isinstance(value, (list, tuple)) or not value:
        raise ValueError(
            f"{shown(value)} is no list of stages: "
            '[{"until": 1e9, "blend": "data/web"}, {"blend": "0.7 data/web 0.3 data/books"}]'
        )
    begin = 0.0
    for number, stage in enumerate(value, 1):
        where = f"stage {number}"
        if not isinstance(stage, dict):
            raise ValueError(f"{where}, {shown(stage)}, has neither until nor blend by its name")
        other = stage.keys() - DataStage.model_fields.keys()
        if other:
            raise ValueError(f"{where}: {shown(min(other))} is no key of it: until and blend are")
        blend, until = stage.get("blend"), stage.get("until")
        if not isinstance(blend, str) or not blend.strip():
            raise ValueError(f"{where} has no blend, which is written as input_dir is")
        if until is None:
            if number < len(value):
                raise ValueError(f"{where} has no until, which only the last can do without")
            continue
        if isinstance(until, bool) or not isinstance(until, (int, float)):
            raise ValueError(f"{where}: until is {shown(until)}, which is no number of tokens")
        if not begin < until < math.inf:
            above = f"{begin:,.0f}, where stage {number - 1} ends" if number > 1 else "0"
            raise ValueError(f"{where}: until is {until:,.0f}, which is not above {above}")
        begin = until
    return value


DataStages = Annotated[
    tuple[DataStage, ...],
    BeforeValidator(_stages),
    WithJsonSchema(
        {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "properties": {
                    "until": {"anyOf": [{"type": "number"}, {"type": "null"}]},
                    "blend": {"type": "string"},
                },
                "required": ["blend"],
                "additionalProperties": False,
            },
        }
    ),
]


def samples_of_stages(stages: Sequence[DataStage], samples: int, length: int) -> tuple[int, ...]:
    """How many of a run's samples each stage has; 0 where the run does not reach it.

    A sample is of the stage in which its first token is; the last stage goes on to the end.

    Args:
        length: tokens of a sample.
    """
    ends = [min(_end(stage, length), samples) for stage in stages]
    ends[-1:] = [samples] * bool(ends)
    return tuple(int(end - begin) for begin, end in pairwise([0, *ends]))


def stages_begun(
    stages: Sequence[DataStage], length: int, samples: range
) -> Iterator[tuple[int, DataStage]]:
    """The stages, with their numbers from 2 on, whose first sample is one of these.

    Args:
        length: tokens of a sample.
    """
    for number, (before, stage) in enumerate(pairwise(stages), 2):
        begin = _end(before, length)
        if samples.start <= begin < samples.stop and begin < _end(stage, length):
            yield number, stage


def _end(stage: DataStage, length: int) -> float:
    """The first sample after a stage."""
    return math.inf if stage.until is None else math.ceil(stage.until / length)
