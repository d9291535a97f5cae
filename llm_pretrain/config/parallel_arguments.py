"""How the work is spread over processes, and what is computed again to save memory."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, field_validator

from llm_pretrain.config.argument_types import Arguments, Flag, Integer, shown
from llm_pretrain.config.parallel_options import (
    PipelineOptions,
    ShardingOptions,
    TensorOptions,
    described,
)

SHARDING = ("", "stage1", "stage2", "stage3", "stage1 offload", "stage2 offload", "stage3 offload")


def _sharding(value: Any) -> str:
    if isinstance(value, bool):
        return "stage1" if value else ""
    if isinstance(value, str) and " ".join(value.split()) in SHARDING:
        return " ".join(value.split())
    if value == "offload":
        raise ValueError("'offload' needs a stage beside it, for instance 'stage2 offload'")
    raise ValueError(f"{shown(value)} is no sharding stage; it can be stage1, stage2, stage3 or ''")


Sharding = Annotated[
    str,
    BeforeValidator(_sharding),
    WithJsonSchema({"anyOf": [{"enum": list(SHARDING)}, {"type": "boolean"}]}),
]


# Names of the automatic-parallel engine's; losses don't depend on the order of micro-batches.
ScheduleMode = Literal["1F1B", "VPP", "FThenB", "Eager-1F1B", "ZBH1", "ZBVPP"]


def _degree(value: int) -> int:
    if value == 0 or value < -1:
        raise ValueError(f"{value} is not a degree: a whole number from 1, or -1 for the default")
    return value


class ParallelArguments(Arguments):
    """Parallelism: degrees whose product is the number of processes."""

    tensor_parallel_degree: Integer = Field(
        -1, description="Processes that share every layer's matrices; -1 is 1."
    )
    pipeline_parallel_degree: Integer = Field(
        -1, description="Stages that the layers are cut into; -1 is 1."
    )
    virtual_pp_degree: Integer = Field(
        1, gt=0, description="Chunks of the model per pipeline stage (interleaved schedule)."
    )
    pipeline_schedule_mode: ScheduleMode | None = Field(
        None,
        description="VPP and ZBVPP, or null, interleave virtual stages; the others have none. The "
        "order of work is always one forward, one backward, or that interleaved.",
    )
    sharding: Sharding = Field(
        "",
        description="What is split among data-parallel processes: stage1 the optimizer's state, "
        "stage2 gradients too, stage3 weights too.",
    )
    sharding_parallel_degree: Integer = Field(
        -1,
        description="Processes of a sharding group; -1 is all that the other degrees leave, 1 "
        "turns sharding off.",
    )
    data_parallel_degree: Integer = Field(
        -1,
        description="Processes that see different samples, which follows from the other degrees: "
        "-1 takes what they leave, another number must be that.",
    )
    sep_parallel_degree: Integer = Field(
        -1, description="Processes that split the sequence and exchange heads; -1 is 1."
    )
    context_parallel_degree: Integer = Field(
        -1, description="Processes that split the sequence and pass keys round a ring; -1 is 1."
    )
    sequence_parallel: Flag = Field(
        False, description="Split norms' activations along the sequence in the tensor group."
    )
    hybrid_parallel_topo_order: Literal["pp_first", "sharding_first"] = Field(
        "pp_first",
        description="Order of ranks, outermost first: data, pipeline, sharding, sep, tensor; or "
        "with sharding before pipeline.",
    )
    tensor_parallel_config: TensorOptions = Field(
        (),
        description=described(
            "Options of tensor parallelism, by name, between spaces.", "tensor_parallel_config"
        ),
    )
    pipeline_parallel_config: PipelineOptions = Field(
        (),
        description=described(
            "Options of pipeline and data parallelism, by name, between spaces.",
            "pipeline_parallel_config",
        ),
    )
    sharding_parallel_config: ShardingOptions = Field(
        (),
        description=described(
            "Options of sharding, by name, between spaces.", "sharding_parallel_config"
        ),
    )
    sharding_comm_buffer_size_MB: Integer = Field(  # noqa: N815
        -1, description="Size of what is reduced or gathered at once; -1 is 256."
    )

    @field_validator("sharding_comm_buffer_size_MB")
    @classmethod
    def _buffer_size(cls, megabytes: int) -> int:
        if megabytes == 0 or megabytes < -1:
            raise ValueError(f"{megabytes} is not a size: a whole number from 1, or -1 for 256")
        return megabytes

    _degrees = field_validator(
        "tensor_parallel_degree",
        "pipeline_parallel_degree",
        "sharding_parallel_degree",
        "data_parallel_degree",
        "sep_parallel_degree",
        "context_parallel_degree",
    )(_degree)

    @field_validator("hybrid_parallel_topo_order", mode="before")
    @classmethod
    def _default_order(cls, value: Any) -> Any:
        return "pp_first" if value is None else value

    @property
    def virtual_stages(self) -> int:
        """Chunks of the model on each rank of a pipeline; 1 without a pipeline."""
        interleaves = self.pipeline_schedule_mode in (None, "VPP", "ZBVPP")
        return self.virtual_pp_degree if self.pipeline_parallel_degree > 1 and interleaves else 1

    @property
    def sharding_stage(self) -> int:
        """0 without sharding, else 1, 2 or 3."""
        return int(self.sharding[5]) if self.sharding else 0


class RecomputeArguments(Arguments):
    """Recompute: activations that the backward pass computes again."""

    recompute: Flag = Field(False, description="Compute activations again in the backward pass.")
    recompute_granularity: Literal["full", "full_attn", "core_attn", ""] = Field(
        "full",
        description="What is computed again: the whole block, its attention, only softmax(QK)V "
        "(PaddleFormers' selective), or with '' nothing.",
    )
    no_recompute_layers: tuple[Integer, ...] | None = Field(
        None, description="Numbers of the layers, from 0, that are left out."
    )

    pp_recompute_interval: Integer = Field(
        1,
        ge=0,
        description="In a pipeline, how many whole blocks in a row are computed again as one, from "
        "the input of the first; 0 turns recompute off.",
    )

    @field_validator("recompute_granularity", mode="before")
    @classmethod
    def _of_paddleformers(cls, value: Any) -> Any:
        if value == "selective":
            return "core_attn"
        return "" if value is None else value

    @field_validator("no_recompute_layers")
    @classmethod
    def _sorted(cls, layers: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if layers and min(layers) < 0:
            raise ValueError(f"{min(layers)} is not a layer: layers are numbered from 0")
        return None if layers is None else tuple(sorted(set(layers)))
