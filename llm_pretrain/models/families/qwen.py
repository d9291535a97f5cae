"""Qwen, the first generation: what its published configs and weights are called.

Bai et al., arXiv:2309.16609. LLaMA's architecture with biases on queries, keys and values, which
stand in one matrix, and with other names. "intermediate_size" is that of gate and up together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_pretrain.config.model_config import Extrapolation, ModelConfig, Rope
from llm_pretrain.models.families.common import read_common, write_common
from llm_pretrain.models.families.fields import Fields
from llm_pretrain.models.families.published import Source, named_source, query_key_value
from llm_pretrain.models.families.rope import read_theta

MODEL_TYPES = ("qwen",)

# Settings that would change the arithmetic, with the values that this decoder computes.
_SUPPORTED = {
    "no_bias": (True, None),
    "rotary_pct": (1, None),
    "scale_attn_weights": (True, None),
    "use_long_sequence_strategies": (False, None),
    "quantization_config": (None,),
}


def read_config(published: Mapping[str, Any], source: str) -> ModelConfig:
    """The model that a published config.json describes.

    Args:
        published: the parsed file.
        source: the file's name for error messages.

    Raises:
        ConfigError: every key that is missing, malformed or beyond this decoder.
    """
    fields = Fields(published, source)
    fields.require_supported(_SUPPORTED)
    heads = fields.positive_integer("num_attention_heads")
    hidden_size = fields.positive_integer("hidden_size")
    head_dim = fields.positive_integer("kv_channels", max(hidden_size // heads, 1))
    if heads * head_dim != hidden_size:
        fields.problem(
            "kv_channels", f"{heads} heads of {head_dim} do not fill hidden_size ({hidden_size})"
        )
    if head_dim % 2:
        fields.problem("kv_channels", f"{head_dim} is odd; rotary embedding needs pairs")
    width = fields.positive_integer("intermediate_size")
    if width % 2:
        fields.problem("intermediate_size", f"{width} is odd; half of it is the layer's width")
    config = ModelConfig(
        family="qwen",
        vocab_size=fields.positive_integer("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=width // 2,
        num_hidden_layers=fields.positive_integer("num_hidden_layers"),
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=head_dim,
        max_position_embeddings=fields.positive_integer("max_position_embeddings", 8192),
        norm_eps=fields.number("layer_norm_epsilon", 1e-6),
        rope=Rope(read_theta(fields, "rotary_emb_base")),
        extrapolation=_read_extrapolation(fields),
        attention_bias=True,
        initializer_range=fields.number("initializer_range", 0.02),
        embedding_dropout=fields.probability("emb_dropout_prob"),
        attention_dropout=fields.probability("attn_dropout_prob"),
        **read_common(fields),
    )
    fields.raise_problems()
    return config


def _read_extrapolation(fields: Fields) -> Extrapolation | None:
    larger_base = fields.flag("use_dynamic_ntk", True)
    scaled_queries = fields.flag("use_logn_attn", True)
    # The files of the first release have no seq_length.
    trained_length = fields.positive_integer("seq_length", 2048)
    if not larger_base and not scaled_queries:
        return None
    if trained_length == 1:
        fields.problem("seq_length", "samples of one token have nothing to learn from")
    return Extrapolation(trained_length, larger_base, scaled_queries)


def write_config(config: ModelConfig) -> dict[str, Any]:
    """The config.json that describes `config`; read back, it is `config` again.

    The classes of "auto_map" are those of the files that stand beside the published weights.
    """
    assert config.rope is not None
    beyond = config.extrapolation or Extrapolation(
        config.max_position_embeddings, larger_base=False, scaled_queries=False
    )
    return {
        "architectures": ["QWenLMHeadModel"],
        "auto_map": {
            "AutoConfig": "configuration_qwen.QWenConfig",
            "AutoModelForCausalLM": "modeling_qwen.QWenLMHeadModel",
        },
        "model_type": "qwen",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": 2 * config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "kv_channels": config.head_dim,
        "max_position_embeddings": config.max_position_embeddings,
        "seq_length": beyond.trained_length,
        "use_dynamic_ntk": beyond.larger_base,
        "use_logn_attn": beyond.scaled_queries,
        "layer_norm_epsilon": config.norm_eps,
        "rotary_emb_base": config.rope.theta,
        "rotary_pct": 1.0,
        "no_bias": True,
        "scale_attn_weights": True,
        "initializer_range": config.initializer_range,
        "attn_dropout_prob": config.attention_dropout,
        "emb_dropout_prob": config.embedding_dropout,
        **write_common(config),
    }


_NAMES = {
    "embedding": "transformer.wte",
    "layers": "transformer.h",
    "attention_norm": "ln_1",
    "attention.output": "attn.c_proj",
    "feed_forward_norm": "ln_2",
    "feed_forward.gate": "mlp.w2",
    "feed_forward.up": "mlp.w1",
    "feed_forward.down": "mlp.c_proj",
    "norm": "transformer.ln_f",
    "head": "lm_head",
}
PASSED_OVER = ("rotary_emb.inv_freq",)


def source(canonical: str, config: ModelConfig) -> Source:
    """Where a tensor stands in Hugging Face's files."""
    return named_source(canonical, _NAMES, {"attn.c_attn": query_key_value(config)})
