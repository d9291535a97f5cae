"""BLOOM: what its published configs and weights are called (arXiv:2211.05100)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.models.families.common import equal_heads, read_common, write_common
from llm_pretrain.models.families.fields import Fields
from llm_pretrain.models.families.published import Source, named_source, query_key_value

MODEL_TYPES = ("bloom",)

# Settings that would change the arithmetic, with the values that this decoder computes.
_SUPPORTED = {
    "apply_residual_connection_post_layernorm": (False, None),
    "use_long_sequence_strategies": (False, None),
    "quantization_config": (None,),
}


def read_config(published: Mapping[str, Any], source: str) -> ModelConfig:
    """The model that a published config.json describes.

    Args:
        published: the parsed file; sizes under the names of the first release ("n_layer",
            "n_embed") or those of today.
        source: the file's name for error messages.

    Raises:
        ConfigError: every key that is missing, malformed or beyond this decoder.
    """
    fields = Fields(published, source)
    fields.require_supported(_SUPPORTED)
    hidden_size = fields.positive_integer(fields.first("hidden_size", "n_embed"))
    heads = fields.positive_integer(fields.first("num_attention_heads", "n_head"))
    for key in filter(fields.has, ("intermediate_size", "n_inner")):
        if published[key] != 4 * hidden_size:
            fields.problem(
                key, f"{published[key]!r}: BLOOM's is 4 x hidden_size, {4 * hidden_size}"
            )
    config = ModelConfig(
        family="bloom",
        vocab_size=fields.positive_integer("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=4 * hidden_size,
        num_hidden_layers=fields.positive_integer(fields.first("num_hidden_layers", "n_layer")),
        **equal_heads(fields, hidden_size, heads),
        max_position_embeddings=fields.positive_integer("seq_length", 2048),
        norm_eps=fields.number("layer_norm_epsilon", 1e-5),
        alibi=True,
        norm="layer_norm",
        activation="gelu_tanh",
        is_gated=False,
        attention_bias=True,
        attention_output_bias=True,
        mlp_bias=True,
        embedding_norm=True,
        initializer_range=fields.number("initializer_range", 0.02),
        hidden_dropout=fields.probability("hidden_dropout"),
        attention_dropout=fields.probability("attention_dropout"),
        **read_common(fields, tied=True),
    )
    fields.raise_problems()
    return config


def write_config(config: ModelConfig) -> dict[str, Any]:
    """The config.json that describes `config`; read back, it is `config` again."""
    return {
        "architectures": ["BloomForCausalLM"],
        "model_type": "bloom",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "n_layer": config.num_hidden_layers,
        "n_head": config.num_attention_heads,
        "seq_length": config.max_position_embeddings,
        "layer_norm_epsilon": config.norm_eps,
        "apply_residual_connection_post_layernorm": False,
        "initializer_range": config.initializer_range,
        "hidden_dropout": config.hidden_dropout,
        "attention_dropout": config.attention_dropout,
        **write_common(config),
    }


_NAMES = {
    "embedding": "transformer.word_embeddings",
    "embedding_norm": "transformer.word_embeddings_layernorm",
    "layers": "transformer.h",
    "attention_norm": "input_layernorm",
    "attention.output": "self_attention.dense",
    "feed_forward_norm": "post_attention_layernorm",
    "feed_forward.up": "mlp.dense_h_to_4h",
    "feed_forward.down": "mlp.dense_4h_to_h",
    "norm": "transformer.ln_f",
    "head": "lm_head",
}
PASSED_OVER = ()


def source(canonical: str, config: ModelConfig) -> Source:
    """Where a tensor stands in Hugging Face's files: query, key and value head by head."""
    packed = query_key_value(config, groups=config.num_attention_heads)
    return named_source(canonical, _NAMES, {"self_attention.query_key_value": packed})
