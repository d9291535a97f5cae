"""Configuration: arguments, where they come from, and what they demand of each other."""

from llm_pretrain.config.argument_types import ConfigError
from llm_pretrain.config.degrees import Degrees, resolve_degrees, smallest_world_size
from llm_pretrain.config.describe import (
    describe_batches,
    describe_config,
    describe_degrees,
    describe_keys,
    describe_layout,
    describe_schedule,
)
from llm_pretrain.config.fewer_processes import on_fewer, possible_sizes
from llm_pretrain.config.keys import json_schema
from llm_pretrain.config.layout_checks import check_layout, layout_notices
from llm_pretrain.config.loading import (
    examine,
    load_command_line,
    load_run_config,
    split_command_line,
)
from llm_pretrain.config.model_arguments import DataArguments, ModelArguments
from llm_pretrain.config.run_config import BatchPlan, RunConfig, plan_batches
from llm_pretrain.config.training_arguments import TrainingArguments

__all__ = [
    "BatchPlan",
    "ConfigError",
    "DataArguments",
    "Degrees",
    "ModelArguments",
    "RunConfig",
    "TrainingArguments",
    "check_layout",
    "describe_batches",
    "describe_config",
    "describe_degrees",
    "describe_keys",
    "describe_layout",
    "describe_schedule",
    "examine",
    "json_schema",
    "layout_notices",
    "load_command_line",
    "load_run_config",
    "on_fewer",
    "plan_batches",
    "possible_sizes",
    "resolve_degrees",
    "smallest_world_size",
    "split_command_line",
]
