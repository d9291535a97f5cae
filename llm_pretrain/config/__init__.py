"""Configuration: arguments, where they come from, and what they demand of each other."""

from llm_pretrain.config.data_arguments import DataArguments
from llm_pretrain.config.degrees import Degrees, resolve_degrees
from llm_pretrain.config.errors import ConfigError
from llm_pretrain.config.layout_checks import check_layout
from llm_pretrain.config.loading import load_run_config
from llm_pretrain.config.model_arguments import ModelArguments
from llm_pretrain.config.run_config import RunConfig
from llm_pretrain.config.schema import json_schema
from llm_pretrain.config.training_arguments import TrainingArguments

__all__ = [
    "ConfigError",
    "DataArguments",
    "Degrees",
    "ModelArguments",
    "RunConfig",
    "TrainingArguments",
    "check_layout",
    "json_schema",
    "load_run_config",
    "resolve_degrees",
]
