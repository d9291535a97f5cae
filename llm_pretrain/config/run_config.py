"""A whole, checked configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llm_pretrain.config.data_arguments import DataArguments
from llm_pretrain.config.model_arguments import ModelArguments
from llm_pretrain.config.training_arguments import TrainingArguments


@dataclass(frozen=True)
class RunConfig:
    """All arguments of a run, where each came from, and what its author should know.

    `sources` says for every key "default", the file's name, "command line", or "from …" where
    another value implies it. `notices` holds one line per key that was given without an effect.
    """

    model: ModelArguments
    data: DataArguments
    training: TrainingArguments
    sources: Mapping[str, str]
    notices: tuple[str, ...]
