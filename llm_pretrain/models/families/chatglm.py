"""ChatGLM-6B and GLM-130B: what their published configs and weights are called.

Zeng et al., arXiv:2210.02414; Du et al., arXiv:2103.10360. A branch is added to its normalised
input, times sqrt(2 L) for L layers, and a sample's context sees all of itself. ChatGLM-6B has
positions in two dimensions and GELU; GLM-130B one dimension and GEGLU, and no published
config.json: its settings stand here under the names of PaddleNLP's "chatglm" and of the paper's
table of hyperparameters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from llm_pretrain.config.model_config import BlankInfilling, ModelConfig, Rope
from llm_pretrain.models.families import chatglm2
from llm_pretrain.models.families.fields import Fields
from llm_pretrain.models.families.published import (
    QUERY_KEY_VALUE,
    Blocks,
    Source,
    one_block,
    part_of_heads,
)

MODEL_TYPES = ("chatglm",)

# Settings that would change the arithmetic, with the values that this decoder computes.
_SUPPORTED = {
    "activation": ("gelu", "geglu", None),
    "pre_seq_len": (None,),
    "quantization_bit": (0, None),
    "use_long_sequence_strategies": (False, None),
}


def read_config(published: Mapping[str, Any], source: str) -> ModelConfig:
    """The model that a published config.json describes.

    Args:
        published: the parsed file, in Hugging Face's or PaddleNLP's spelling; that of a ChatGLM2
            is read as such.
        source: the file's name for error messages.

    Raises:
        ConfigError: every key that is missing, malformed or beyond this decoder.
    """
    if "padded_vocab_size" in published:
        return chatglm2.read_config(published, source)
    fields = Fields(published, source)
    for key, supported in _SUPPORTED.items():
        fields.require_supported(key, supported)
    vocab_size = fields.positive_integer("vocab_size")
    hidden_size = fields.positive_integer("hidden_size")
    heads = fields.positive_integer("num_attention_heads")
    layers = fields.positive_integer(fields.first("num_hidden_layers", "num_layers"))
    is_gated = published.get("activation") == "geglu"
    is_two_dimensional = fields.flag("position_encoding_2d", True)
    if hidden_size % (heads * (4 if is_two_dimensional else 2)):
        fields.problem(
            "hidden_size",
            f"{hidden_size} does not give {heads} attention heads whole pairs to rotate",
        )
    config = ModelConfig(
        family="chatglm",
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=fields.positive_integer(
            fields.first("intermediate_size", "inner_hidden_size"), 4 * hidden_size
        ),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=max(hidden_size // heads, 1),
        max_position_embeddings=fields.positive_integer("max_sequence_length", 2048),
        norm_eps=fields.number("layernorm_epsilon", 1e-5),
        rope=Rope(is_two_dimensional=is_two_dimensional),
        norm="layer_norm",
        activation="gelu" if is_gated else "gelu_tanh",
        is_gated=is_gated,
        tie_word_embeddings=fields.flag("tie_word_embeddings", True),
        attention_bias=True,
        attention_output_bias=True,
        mlp_bias=True,
        residual_from_norm=True,
        residual_scale=math.sqrt(2 * layers),
        embedding_gradient_share=fields.number("shrink_embedding_gradient_alpha", 1.0),
        blank_infilling=_read_blanks(fields, vocab_size),
        initializer_range=fields.number("initializer_range", 0.02),
        embedding_dropout=fields.probability("hidden_dropout"),
        hidden_dropout=fields.probability("hidden_dropout"),
        attention_dropout=fields.probability("attention_dropout"),
        fuse_attention_qkv=fields.flag("fuse_attention_qkv", False),
        fuse_attention_ffn=fields.flag("fuse_attention_ffn", False),
        bos_token_id=fields.token("bos_token_id"),
        eos_token_id=fields.token("eos_token_id"),
        pad_token_id=fields.token("pad_token_id"),
    )
    fields.raise_problems()
    return config


def _read_blanks(fields: Fields, vocab_size: int) -> BlankInfilling:
    def token(key: str) -> int:
        value = fields.token(key)
        if value is None:
            fields.problem(key, "is missing; samples with blanks are made with this token")
        elif value >= vocab_size > 1:
            fields.problem(key, f"{value} is outside the vocabulary of {vocab_size}")
        return value or 0

    long_share = fields.number("gpt_prob", 1.0)
    if long_share > 1:
        fields.problem("gpt_prob", f"{long_share} is not a probability")
    return BlankInfilling(
        mask_token_id=token("mask_token_id"),
        gmask_token_id=token("gmask_token_id"),
        start_token_id=token("bos_token_id"),
        end_token_id=token("eos_token_id"),
        long_share=long_share,
        block_positions=fields.flag("position_encoding_2d", True),
    )


def write_config(config: ModelConfig) -> dict[str, Any]:
    """The config.json that describes `config`; read back, it is `config` again."""
    assert config.rope is not None
    assert config.blank_infilling is not None
    return {
        "architectures": ["ChatGLMForConditionalGeneration"],
        "model_type": "chatglm",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "inner_hidden_size": config.intermediate_size,
        "num_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "activation": "geglu" if config.is_gated else "gelu",
        "position_encoding_2d": config.rope.is_two_dimensional,
        "max_sequence_length": config.max_position_embeddings,
        "layernorm_epsilon": config.norm_eps,
        "tie_word_embeddings": config.tie_word_embeddings,
        "shrink_embedding_gradient_alpha": config.embedding_gradient_share,
        "gpt_prob": config.blank_infilling.long_share,
        "initializer_range": config.initializer_range,
        "hidden_dropout": config.hidden_dropout,
        "attention_dropout": config.attention_dropout,
        "fuse_attention_qkv": config.fuse_attention_qkv,
        "fuse_attention_ffn": config.fuse_attention_ffn,
        "mask_token_id": config.blank_infilling.mask_token_id,
        "gmask_token_id": config.blank_infilling.gmask_token_id,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": config.pad_token_id,
    }


_LAYERS = {
    "embedding": "word_embeddings",
    "norm": "final_layernorm",
    "attention_norm": "input_layernorm",
    "attention.query": "attention.query_key_value",
    "attention.key": "attention.query_key_value",
    "attention.value": "attention.query_key_value",
    "attention.output": "attention.dense",
    "feed_forward_norm": "post_attention_layernorm",
    "feed_forward.up": "mlp.dense_h_to_4h",
    "feed_forward.gate": "mlp.dense_h_to_4h",
    "feed_forward.down": "mlp.dense_4h_to_h",
}


def source(canonical: str, config: ModelConfig) -> Source:
    """Where a tensor stands in Hugging Face's files: query, key and value head by head."""
    layer, _, kind = canonical.rpartition(".")
    if layer == "head":
        return Source("lm_head.weight", is_transposed=True)
    scope = "transformer."
    if layer.startswith("layers."):
        _, index, layer = layer.split(".", 2)
        scope = f"transformer.layers.{index}."
    return Source(
        f"{scope}{_LAYERS[layer]}.{kind}",
        is_transposed=kind == "weight" and not layer.endswith(("norm", "embedding")),
        outputs=_packed(layer, config),
    )


def _packed(layer: str, config: ModelConfig) -> Blocks | None:
    inner = config.intermediate_size
    if layer == "feed_forward.up" and config.is_gated:
        return one_block(0, inner, 2 * inner)
    if layer == "feed_forward.gate":
        return one_block(inner, inner, 2 * inner)
    name = layer.removeprefix("attention.")
    if name in QUERY_KEY_VALUE:
        return part_of_heads(name, config.num_attention_heads, config.head_dim)
    return None


def is_redundant(published: str, config: ModelConfig) -> bool:
    """Whether published weights may hold a tensor that no parameter is read from."""
    if published == "lm_head.weight":
        return config.tie_word_embeddings
    return published.endswith("rotary_emb.inv_freq")
