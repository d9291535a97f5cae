"""What the published configs of all families have under the same keys."""

from __future__ import annotations

from typing import Any

from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.models.families.fields import Fields


def equal_heads(fields: Fields, hidden_size: int, heads: int) -> dict[str, Any]:
    """Arguments of `ModelConfig` where all heads have keys of their own and share hidden_size."""
    if hidden_size % heads:
        fields.problem("hidden_size", f"{hidden_size} is not a multiple of {heads} attention heads")
    return {
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": max(hidden_size // heads, 1),
    }


def read_common(fields: Fields, *, tied: bool = False) -> dict[str, Any]:
    """Arguments of `ModelConfig`; problems go to `fields`.

    Args:
        tied: whether the head has the embedding's table where the file does not say.
    """
    return {
        "tie_word_embeddings": fields.flag("tie_word_embeddings", tied),
        "fuse_attention_qkv": fields.flag("fuse_attention_qkv", False),
        "fuse_attention_ffn": fields.flag("fuse_attention_ffn", False),
        "bos_token_id": fields.token("bos_token_id"),
        "eos_token_id": fields.tokens("eos_token_id"),
        "pad_token_id": fields.token("pad_token_id"),
    }


def write_common(config: ModelConfig) -> dict[str, Any]:
    """Keys for a config.json."""
    eos = config.eos_token_id
    return {
        "tie_word_embeddings": config.tie_word_embeddings,
        "fuse_attention_qkv": config.fuse_attention_qkv,
        "fuse_attention_ffn": config.fuse_attention_ffn,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": list(eos) if isinstance(eos, tuple) else eos,
        "pad_token_id": config.pad_token_id,
    }
