"""OPT: what its published configs and weights are called (arXiv:2205.01068)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_pretrain.config.model_config import LearnedPositions, ModelConfig
from llm_pretrain.models.families.common import equal_heads, read_common, write_common
from llm_pretrain.models.families.fields import Fields
from llm_pretrain.models.families.published import Source, named_source

MODEL_TYPES = ("opt",)

# Settings that would change the arithmetic, with the values that this decoder computes. OPT-350m
# alone is published with other ones: norms after the branches, and a smaller embedding.
_SUPPORTED = {
    "do_layer_norm_before": (True, None),
    "normalize_before": (True, None),
    "activation_function": ("relu", None),
    "hidden_act": ("relu", None),
    "layer_norm_elementwise_affine": (True, None),
    "_remove_final_layer_norm": (False, None),
    "layerdrop": (0, None),
    "quantization_config": (None,),
}


def read_config(published: Mapping[str, Any], source: str) -> ModelConfig:
    """The model that a published config.json describes.

    Args:
        published: the parsed file. Where a setting stands under PaddleNLP's name and under that of
            transformers, the first counts: the run's own settings have it.
        source: the file's name for error messages.

    Raises:
        ConfigError: every key that is missing, malformed or beyond this decoder.
    """
    fields = Fields({"dropout": 0.1, **published}, source)
    fields.require_supported(_SUPPORTED)
    hidden_size = fields.positive_integer("hidden_size")
    fields.require_supported({"word_embed_proj_dim": (hidden_size, None)})
    heads = fields.positive_integer("num_attention_heads")
    has_biases = fields.flag("enable_bias", True)
    config = ModelConfig(
        family="opt",
        vocab_size=fields.positive_integer("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=fields.positive_integer(fields.first("intermediate_size", "ffn_dim")),
        num_hidden_layers=fields.positive_integer("num_hidden_layers"),
        **equal_heads(fields, hidden_size, heads),
        max_position_embeddings=fields.positive_integer("max_position_embeddings", 2048),
        norm_eps=1e-5,
        learned_positions=LearnedPositions(offset=2),
        norm="layer_norm",
        activation="relu",
        is_gated=False,
        attention_bias=has_biases,
        attention_output_bias=has_biases,
        mlp_bias=has_biases,
        initializer_range=fields.number(fields.first("initializer_range", "init_std"), 0.02),
        hidden_dropout=fields.probability("hidden_dropout_prob", "dropout"),
        attention_dropout=fields.probability("attention_probs_dropout_prob", "attention_dropout"),
        **read_common(fields, tied=True),
    )
    fields.raise_problems()
    return config


def write_config(config: ModelConfig) -> dict[str, Any]:
    """The config.json that describes `config`; read back, it is `config` again."""
    return {
        "architectures": ["OPTForCausalLM"],
        "model_type": "opt",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "word_embed_proj_dim": config.hidden_size,
        "ffn_dim": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "max_position_embeddings": config.max_position_embeddings,
        "activation_function": "relu",
        "do_layer_norm_before": True,
        "enable_bias": config.mlp_bias,
        "init_std": config.initializer_range,
        "dropout": config.hidden_dropout,
        "attention_dropout": config.attention_dropout,
        **write_common(config),
    }


_NAMES = {
    "embedding": "model.decoder.embed_tokens",
    "positions": "model.decoder.embed_positions",
    "layers": "model.decoder.layers",
    "attention_norm": "self_attn_layer_norm",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.out_proj",
    "feed_forward_norm": "final_layer_norm",
    "feed_forward.up": "fc1",
    "feed_forward.down": "fc2",
    "norm": "model.decoder.final_layer_norm",
    "head": "lm_head",
}
PASSED_OVER = ()


def source(canonical: str, config: ModelConfig) -> Source:
    """Where a tensor stands in Hugging Face's files."""
    return named_source(canonical, _NAMES)
