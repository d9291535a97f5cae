"""A whole, checked configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llm_pretrain.config.data_arguments import DataArguments
from llm_pretrain.config.model_arguments import ModelArguments, OperatorArguments
from llm_pretrain.config.parallel_arguments import ParallelArguments, RecomputeArguments
from llm_pretrain.config.training_arguments import TrainingArguments


@dataclass(frozen=True)
class RunConfig:
    """All arguments of a run, where each came from, and what its author should know.

    `sources` says for every key "default", the file's name, "command line", or "from …" where
    another value implies it. `notices` holds one line per key that was given without an effect.
    `unknown` are the keys in whose place the default stands, since what was given is wrong.
    """

    model: ModelArguments
    data: DataArguments
    training: TrainingArguments
    sources: Mapping[str, str]
    notices: tuple[str, ...]
    unknown: frozenset[str] = frozenset()

    def values(self) -> dict[str, Any]:
        """Every key with its value."""
        return {
            **self.model.model_dump(),
            **self.data.model_dump(),
            **self.training.model_dump(),
        }

    def knows_model(self) -> bool:
        """Whether all that decides on the model is known."""
        return self.unknown.isdisjoint(
            ModelArguments.model_fields.keys() - OperatorArguments.model_fields.keys()
        )

    def knows_layout(self) -> bool:
        """Whether all that the degrees must fit to each other and to the model is known."""
        degrees = ParallelArguments.model_fields.keys() | RecomputeArguments.model_fields.keys()
        return self.unknown.isdisjoint(degrees | {"max_seq_length", "gradient_accumulation_steps"})

    def knows_data(self) -> bool:
        """Whether all that decides on the samples is known."""
        return self.unknown.isdisjoint(DataArguments.model_fields.keys() | {"max_steps"})

    def knows_folders(self) -> bool:
        """Whether it is known where the run writes and resumes."""
        return self.unknown.isdisjoint(
            {"output_dir", "overwrite_output_dir", "resume_from_checkpoint"}
        )
