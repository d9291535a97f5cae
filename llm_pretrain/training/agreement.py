"""What all ranks must see alike, although each reads its own node's files."""

from __future__ import annotations

import hashlib

import paddle

from llm_pretrain.config import ConfigError, RunConfig
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.parallel.comm import collectives, topology

_OWN_TO_A_NODE = {
    "model_name_or_path",
    "tokenizer_name_or_path",
    "input_dir",
    "data_cache",
    "output_dir",
    "logging_dir",
    "resume_from_checkpoint",
}
"""Paths: each node may have its own."""


def bounds_over_ranks(value: int) -> tuple[int, int]:
    """The smallest and the largest of the ranks' values."""
    bounds = paddle.to_tensor([-value, value], dtype="int64")
    collectives.all_reduce_world(bounds, "max")
    return -int(bounds[0]), int(bounds[1])


def assert_same_run(run: RunConfig, model: ModelConfig) -> None:
    """All ranks must have resolved the same configuration, but for paths.

    Raises:
        ConfigError: they have not.
    """
    values = {key: value for key, value in run.values().items() if key not in _OWN_TO_A_NODE}
    digest = hashlib.sha256(repr((sorted(values.items()), model)).encode()).digest()
    smallest, largest = bounds_over_ranks(int.from_bytes(digest[:7], "big"))
    if smallest != largest:
        raise ConfigError(
            [
                f"rank {topology.current().rank}: the ranks have different configurations or "
                "models; give every node the same config file, command line, config.json and "
                "tokenizer (only paths may differ)"
            ]
        )
