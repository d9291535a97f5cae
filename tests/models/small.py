"""Small models for the tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llm_pretrain.config.model_config import ModelConfig, Rope
from llm_pretrain.models.decoder import Decoder
from llm_pretrain.parallel.sharding.pieces import initialize

CONFIG = ModelConfig(
    family="llama",
    vocab_size=64,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=4,
    max_position_embeddings=32,
    norm_eps=1e-5,
    rope=Rope(),
)


def small_config(**changes: Any) -> ModelConfig:
    return replace(CONFIG, **changes)


def small_model(seed: int = 0, **changes: Any) -> Decoder:
    model = Decoder(small_config(**changes))
    initialize(model, seed)
    return model
