"""LLaMA 1, 2 and 3: what their published configs and weights are called.

Touvron et al., arXiv:2302.13971 and arXiv:2307.09288; Llama 3: arXiv:2407.21783.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.models.families.fields import Fields
from llm_pretrain.models.families.published import Source
from llm_pretrain.models.families.rope import read_rope, write_rope

MODEL_TYPES = ("llama",)

# Settings that would change the arithmetic, with the values that this decoder computes.
_SUPPORTED = {
    "hidden_act": ("silu", "swish"),
    "use_long_sequence_strategies": (False, None),
    "rope_scaling_type": (None,),
    "quantization_config": (None,),
    "partial_rotary_factor": (1, None),
}


def read_config(published: Mapping[str, Any], source: str) -> ModelConfig:
    """The model that a published config.json describes.

    Args:
        published: the parsed file, in the older or the present spelling.
        source: the file's name for error messages.

    Raises:
        ConfigError: every key that is missing, malformed or beyond this decoder.
    """
    fields = Fields(published, source)
    for key, supported in _SUPPORTED.items():
        fields.require_supported(key, supported)
    heads = fields.positive_integer("num_attention_heads")
    hidden_size = fields.positive_integer("hidden_size")
    if hidden_size % heads and not published.get("head_dim"):
        fields.problem(
            "hidden_size", f"{hidden_size} is not a multiple of num_attention_heads ({heads})"
        )
    key_value_heads = fields.positive_integer("num_key_value_heads", heads)
    if heads % key_value_heads:
        fields.problem(
            "num_key_value_heads", f"{key_value_heads} does not divide {heads} attention heads"
        )
    head_dim = fields.positive_integer("head_dim", max(hidden_size // heads, 1))
    has_alibi = fields.flag("alibi", False)
    if head_dim % 2 and not has_alibi:
        fields.problem("head_dim", f"{head_dim} is odd; rotary embedding needs pairs")
    max_position_embeddings = fields.positive_integer("max_position_embeddings", 2048)
    config = ModelConfig(
        family="llama",
        vocab_size=fields.positive_integer("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=fields.positive_integer("intermediate_size"),
        num_hidden_layers=fields.positive_integer("num_hidden_layers"),
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        head_dim=head_dim,
        max_position_embeddings=max_position_embeddings,
        norm_eps=fields.number("rms_norm_eps", 1e-6),
        rope=None if has_alibi else read_rope(fields, max_position_embeddings),
        alibi=has_alibi,
        tie_word_embeddings=fields.flag("tie_word_embeddings", False),
        attention_bias=fields.flag("attention_bias", False),
        attention_output_bias=fields.flag("attention_bias", False),
        mlp_bias=fields.flag("mlp_bias", False),
        initializer_range=fields.number("initializer_range", 0.02),
        attention_dropout=fields.probability("attention_dropout"),
        fuse_attention_qkv=fields.flag("fuse_attention_qkv", False),
        fuse_attention_ffn=fields.flag("fuse_attention_ffn", False),
        bos_token_id=fields.token("bos_token_id"),
        eos_token_id=fields.tokens("eos_token_id"),
        pad_token_id=fields.token("pad_token_id"),
    )
    fields.raise_problems()
    return config


def write_config(config: ModelConfig) -> dict[str, Any]:
    """The config.json that describes `config`; read back, it is `config` again.

    Rotary embedding is written in the older and the present spelling, so that old and new
    versions of other programs read the same model. "alibi" is PaddleNLP's.
    """
    eos = config.eos_token_id
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.norm_eps,
        **({"alibi": True} if config.rope is None else write_rope(config.rope)),
        "tie_word_embeddings": config.tie_word_embeddings,
        "attention_bias": config.attention_bias,
        "mlp_bias": config.mlp_bias,
        "initializer_range": config.initializer_range,
        "attention_dropout": config.attention_dropout,
        "fuse_attention_qkv": config.fuse_attention_qkv,
        "fuse_attention_ffn": config.fuse_attention_ffn,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": list(eos) if isinstance(eos, tuple) else eos,
        "pad_token_id": config.pad_token_id,
    }


_OUTSIDE_LAYERS = {
    "embedding.weight": Source("model.embed_tokens.weight"),
    "norm.weight": Source("model.norm.weight"),
    "head.weight": Source("lm_head.weight", is_transposed=True),
}
_LINEAR = {
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.o_proj",
    "feed_forward.gate": "mlp.gate_proj",
    "feed_forward.up": "mlp.up_proj",
    "feed_forward.down": "mlp.down_proj",
}
_NORM = {"attention_norm": "input_layernorm", "feed_forward_norm": "post_attention_layernorm"}


def source(canonical: str, config: ModelConfig) -> Source:
    """Where a tensor stands in Hugging Face's files."""
    if canonical in _OUTSIDE_LAYERS:
        return _OUTSIDE_LAYERS[canonical]
    _, index, rest = canonical.split(".", 2)
    layer, _, kind = rest.rpartition(".")
    if layer in _NORM:
        return Source(f"model.layers.{index}.{_NORM[layer]}.{kind}")
    return Source(f"model.layers.{index}.{_LINEAR[layer]}.{kind}", is_transposed=kind == "weight")


def is_redundant(published: str, config: ModelConfig) -> bool:
    """Whether published weights may hold a tensor that no parameter is read from."""
    if published.endswith("rotary_emb.inv_freq"):
        return True
    return published == "lm_head.weight" and config.tie_word_embeddings
