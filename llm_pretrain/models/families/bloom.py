"""BLOOM: what its published configs and weights are called (arXiv:2211.05100)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.models.families.fields import Fields
from llm_pretrain.models.families.published import QUERY_KEY_VALUE, Source, part_of_heads

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
    for key, supported in _SUPPORTED.items():
        fields.require_supported(key, supported)
    hidden_size = fields.positive_integer(fields.first("hidden_size", "n_embed"))
    heads = fields.positive_integer(fields.first("num_attention_heads", "n_head"))
    if hidden_size % heads:
        fields.problem("hidden_size", f"{hidden_size} is not a multiple of {heads} attention heads")
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
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=max(hidden_size // heads, 1),
        max_position_embeddings=fields.positive_integer("seq_length", 2048),
        norm_eps=fields.number("layer_norm_epsilon", 1e-5),
        alibi=True,
        norm="layer_norm",
        activation="gelu_tanh",
        is_gated=False,
        tie_word_embeddings=fields.flag("tie_word_embeddings", True),
        attention_bias=True,
        attention_output_bias=True,
        mlp_bias=True,
        embedding_norm=True,
        initializer_range=fields.number("initializer_range", 0.02),
        hidden_dropout=fields.probability("hidden_dropout"),
        attention_dropout=fields.probability("attention_dropout"),
        fuse_attention_qkv=fields.flag("fuse_attention_qkv", False),
        bos_token_id=fields.token("bos_token_id"),
        eos_token_id=fields.tokens("eos_token_id"),
        pad_token_id=fields.token("pad_token_id"),
    )
    fields.raise_problems()
    return config


def write_config(config: ModelConfig) -> dict[str, Any]:
    """The config.json that describes `config`; read back, it is `config` again."""
    eos = config.eos_token_id
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
        "tie_word_embeddings": config.tie_word_embeddings,
        "initializer_range": config.initializer_range,
        "hidden_dropout": config.hidden_dropout,
        "attention_dropout": config.attention_dropout,
        "fuse_attention_qkv": config.fuse_attention_qkv,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": list(eos) if isinstance(eos, tuple) else eos,
        "pad_token_id": config.pad_token_id,
    }


_LAYERS = {
    "embedding": "word_embeddings",
    "embedding_norm": "word_embeddings_layernorm",
    "norm": "ln_f",
    "attention_norm": "input_layernorm",
    "attention.output": "self_attention.dense",
    "feed_forward_norm": "post_attention_layernorm",
    "feed_forward.up": "mlp.dense_h_to_4h",
    "feed_forward.down": "mlp.dense_4h_to_h",
}


def source(canonical: str, config: ModelConfig) -> Source:
    """Where a tensor stands in Hugging Face's files."""
    layer, _, kind = canonical.rpartition(".")
    if layer == "head":
        return Source("lm_head.weight", is_transposed=True)
    scope = "transformer."
    if layer.startswith("layers."):
        _, index, layer = layer.split(".", 2)
        scope = f"transformer.h.{index}."
    is_matrix = kind == "weight" and not layer.endswith(("norm", "embedding"))
    name = layer.removeprefix("attention.")
    if name in QUERY_KEY_VALUE:
        blocks = part_of_heads(name, config.num_attention_heads, config.head_dim)
        return Source(f"{scope}self_attention.query_key_value.{kind}", is_matrix, blocks)
    return Source(f"{scope}{_LAYERS[layer]}.{kind}", is_transposed=is_matrix)


def is_redundant(published: str, config: ModelConfig) -> bool:
    """Whether published weights may hold a tensor that no parameter is read from."""
    return published == "lm_head.weight" and config.tie_word_embeddings
