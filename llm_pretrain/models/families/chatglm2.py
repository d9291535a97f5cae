"""ChatGLM2-6B: what its published configs and weights are called.

The block is LLaMA's but for biases on query, key and value, and a rotary embedding that turns half
of every head, in neighbouring pairs. Its files call themselves "chatglm", as ChatGLM-6B's do;
PaddleNLP's call it "chatglm_v2".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_pretrain.config.model_config import ModelConfig, Rope
from llm_pretrain.models.families.common import read_common, write_common
from llm_pretrain.models.families.fields import Fields
from llm_pretrain.models.families.published import Source, gate_up, named_source, query_key_value

MODEL_TYPES = ("chatglm_v2",)

# Settings that would change the arithmetic, with the values that this decoder computes.
_SUPPORTED = {
    "rmsnorm": (True, None),
    "post_layer_norm": (True, None),
    "apply_residual_connection_post_layernorm": (False, None),
    "original_rope": (True, None),
    "rope_ratio": (1, None),
    "interleaved_qkv": (False, None),
    "fp32_residual_connection": (False, None),
    "pre_seq_len": (None,),
    "quantization_bit": (0, None),
    "use_long_sequence_strategies": (False, None),
}


def read_config(published: Mapping[str, Any], source: str) -> ModelConfig:
    """The model that a published config.json describes.

    Args:
        published: the parsed file, in Hugging Face's or PaddleNLP's spelling.
        source: the file's name for error messages.

    Raises:
        ConfigError: every key that is missing, malformed or beyond this decoder.
    """
    fields = Fields(published, source)
    fields.require_supported(_SUPPORTED)
    hidden_size = fields.positive_integer("hidden_size")
    heads = fields.positive_integer("num_attention_heads")
    head_dim = fields.positive_integer("kv_channels", max(hidden_size // heads, 1))
    if head_dim % 4:
        fields.problem("kv_channels", f"{head_dim} has no half that is made of pairs")
    key_value_heads = heads
    if fields.flag("multi_query_attention", fields.has("multi_query_group_num")):
        key_value_heads = fields.positive_integer("multi_query_group_num", 1)
    if heads % key_value_heads:
        fields.problem(
            "multi_query_group_num", f"{key_value_heads} does not divide {heads} attention heads"
        )
    bias = fields.flag("add_bias_linear", False)
    config = ModelConfig(
        family="chatglm_v2",
        vocab_size=fields.positive_integer(fields.first("vocab_size", "padded_vocab_size")),
        hidden_size=hidden_size,
        intermediate_size=fields.positive_integer(
            fields.first("intermediate_size", "ffn_hidden_size")
        ),
        num_hidden_layers=fields.positive_integer(fields.first("num_hidden_layers", "num_layers")),
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        head_dim=head_dim,
        max_position_embeddings=fields.positive_integer(
            fields.first("seq_length", "max_sequence_length"), 2048
        ),
        norm_eps=fields.number("layernorm_epsilon", 1e-5),
        rope=Rope(pairs="neighbours", rotary_dim=head_dim // 2),
        attention_bias=bias or fields.flag("add_qkv_bias", False),
        attention_output_bias=bias,
        mlp_bias=bias,
        initializer_range=fields.number("initializer_range", 0.02),
        hidden_dropout=fields.probability("hidden_dropout"),
        attention_dropout=fields.probability("attention_dropout"),
        **read_common(fields),
    )
    fields.raise_problems()
    return config


_CLASS = "modeling_chatglm.ChatGLMForConditionalGeneration"
AUTO_MAP = {
    "AutoConfig": "configuration_chatglm.ChatGLMConfig",
    "AutoModel": _CLASS,
    "AutoModelForSeq2SeqLM": _CLASS,
}
"""Classes in the files that stand beside the published weights, those of ChatGLM-6B too."""


def write_config(config: ModelConfig) -> dict[str, Any]:
    """The config.json that describes `config`; read back, it is `config` again."""
    return {
        "architectures": ["ChatGLMForConditionalGeneration"],
        "auto_map": AUTO_MAP,
        "model_type": "chatglm",
        "padded_vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "ffn_hidden_size": config.intermediate_size,
        "num_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "multi_query_attention": True,
        "multi_query_group_num": config.num_key_value_heads,
        "kv_channels": config.head_dim,
        "seq_length": config.max_position_embeddings,
        "layernorm_epsilon": config.norm_eps,
        "rmsnorm": True,
        "post_layer_norm": True,
        "original_rope": True,
        "add_qkv_bias": config.attention_bias,
        "add_bias_linear": config.mlp_bias,
        "initializer_range": config.initializer_range,
        "hidden_dropout": config.hidden_dropout,
        "attention_dropout": config.attention_dropout,
        **write_common(config),
    }


_NAMES = {
    "embedding": "transformer.embedding.word_embeddings",
    "layers": "transformer.encoder.layers",
    "attention_norm": "input_layernorm",
    "attention.output": "self_attention.dense",
    "feed_forward_norm": "post_attention_layernorm",
    "feed_forward.down": "mlp.dense_4h_to_h",
    "norm": "transformer.encoder.final_layernorm",
    "head": "transformer.output_layer",
}
PASSED_OVER = ("rotary_pos_emb.inv_freq",)


def source(canonical: str, config: ModelConfig) -> Source:
    """Where a tensor stands in Hugging Face's files."""
    packed = {
        "self_attention.query_key_value": query_key_value(config),
        "mlp.dense_h_to_4h": gate_up(config),
    }
    return named_source(canonical, _NAMES, packed)
