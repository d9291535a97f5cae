"""LLaMA 1, 2 and 3: what their published configs and weights are called.

Touvron et al., arXiv:2302.13971 and arXiv:2307.09288; Llama 3: arXiv:2407.21783.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.models.families.common import read_common, write_common
from llm_pretrain.models.families.fields import Fields
from llm_pretrain.models.families.published import Source, named_source
from llm_pretrain.models.families.rope import read_rope, write_rope

MODEL_TYPES = ("llama",)

# Settings that would change the arithmetic, with the values that this decoder computes.
_SUPPORTED = {
    "hidden_act": ("silu", "swish"),
    "use_long_sequence_strategies": (False, None),
    "quantization_config": (None,),
    "partial_rotary_factor": (1, None),
}


def read_config(published: Mapping[str, Any], source: str) -> ModelConfig:
    """The model that a published config.json describes.

    Args:
        published: the parsed file, in the older or the present spelling, or PaddleNLP's.
        source: the file's name for error messages.

    Raises:
        ConfigError: every key that is missing, malformed or beyond this decoder.
    """
    fields = Fields(published, source)
    fields.require_supported(_SUPPORTED)
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
    has_biases = fields.flag("attention_bias", False)
    # A LLaMA with linear biases is PaddleNLP's Baichuan-13B; transformers would take no notice of
    # "alibi" in a LLaMA.
    is_baichuan = has_alibi and key_value_heads == heads and not has_biases
    config = ModelConfig(
        family="baichuan" if is_baichuan else "llama",
        vocab_size=fields.positive_integer("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=fields.positive_integer("intermediate_size"),
        num_hidden_layers=fields.positive_integer("num_hidden_layers"),
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        head_dim=head_dim,
        max_position_embeddings=max_position_embeddings,
        norm_eps=fields.number("rms_norm_eps", 1e-6),
        rope=None if has_alibi else read_rope(fields, max_position_embeddings, head_dim),
        alibi=has_alibi,
        attention_bias=has_biases,
        attention_output_bias=has_biases,
        mlp_bias=fields.flag("mlp_bias", False),
        initializer_range=fields.number("initializer_range", 0.02),
        attention_dropout=fields.probability("attention_dropout"),
        **read_common(fields),
    )
    fields.raise_problems()
    return config


def write_config(config: ModelConfig) -> dict[str, Any]:
    """The config.json that describes `config`; read back, it is `config` again.

    Rotary embedding is written in the older and the present spelling, so that old and new
    versions of other programs read the same model. "alibi" is PaddleNLP's.
    """
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
        "attention_bias": config.attention_bias,
        "mlp_bias": config.mlp_bias,
        "initializer_range": config.initializer_range,
        "attention_dropout": config.attention_dropout,
        **write_common(config),
    }


NAMES = {
    "embedding": "model.embed_tokens",
    "layers": "model.layers",
    "attention_norm": "input_layernorm",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.o_proj",
    "feed_forward_norm": "post_attention_layernorm",
    "feed_forward.gate": "mlp.gate_proj",
    "feed_forward.up": "mlp.up_proj",
    "feed_forward.down": "mlp.down_proj",
    "norm": "model.norm",
    "head": "lm_head",
}
PASSED_OVER = ("rotary_emb.inv_freq",)


def source(canonical: str, config: ModelConfig) -> Source:
    """Where a tensor stands in Hugging Face's files."""
    return named_source(canonical, NAMES)
