"""GPT-2 and GPT-3: what their published configs and weights are called.

GPT-2 (Radford et al., 2019) is model type "gpt2" of transformers; GPT-3 (arXiv:2005.14165), without
its sparse layers, is model type "gpt" of PaddleNLP. Both have one architecture, and the weights of
both stand under GPT-2's names in Hugging Face's files, which PaddleNLP reads too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llm_pretrain.config.model_config import LearnedPositions, ModelConfig
from llm_pretrain.models.families.common import equal_heads, read_common, write_common
from llm_pretrain.models.families.fields import Fields
from llm_pretrain.models.families.published import Source, named_source, query_key_value

MODEL_TYPES = ("gpt", "gpt2")

# transformers' names of what has the name of the run's settings in PaddleNLP's configs.
_GPT2_KEYS = {
    "hidden_size": "n_embd",
    "intermediate_size": "n_inner",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
}
_DROPOUTS = {"embd_pdrop": 0.1, "resid_pdrop": 0.1, "attn_pdrop": 0.1}
# Settings that would change the arithmetic, with the values that this decoder computes.
_SUPPORTED = {
    # PaddleNLP takes the approximation by tanh where these say "gelu".
    "hidden_activation": ("gelu", None),
    "hidden_act": ("gelu", "gelu_new", None),
    # PaddleNLP computes with 1e-5 whatever stands here.
    "layer_norm_eps": (1e-5, None),
    "normalize_before": (True, None),
    "scale_qk_coeff": (1, None),
    # These are transformers'.
    "activation_function": ("gelu_new", "gelu_pytorch_tanh", None),
    "scale_attn_weights": (True, None),
    "scale_attn_by_inverse_layer_idx": (False, None),
    "add_cross_attention": (False, None),
    "quantization_config": (None,),
}


def read_config(published: Mapping[str, Any], source: str) -> ModelConfig:
    """The model that a published config.json describes.

    Args:
        published: the parsed file. PaddleNLP's name of a setting counts before that of
            transformers, because it is under the former that a run changes it.
        source: the file's name for error messages.

    Raises:
        ConfigError: every key that is missing, malformed or beyond this decoder.
    """
    fields = Fields({**_DROPOUTS, **published}, source)
    fields.require_supported(_SUPPORTED)

    def size(key: str, default: int | None = None) -> int:
        return fields.positive_integer(fields.first(key, _GPT2_KEYS[key]), default)

    hidden_size, heads = size("hidden_size"), size("num_attention_heads")
    config = ModelConfig(
        family="gpt",
        vocab_size=fields.positive_integer("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=size("intermediate_size", 4 * hidden_size),
        num_hidden_layers=size("num_hidden_layers"),
        **equal_heads(fields, hidden_size, heads),
        max_position_embeddings=size("max_position_embeddings", 1024),
        norm_eps=fields.number("layer_norm_epsilon", 1e-5),
        learned_positions=LearnedPositions(),
        norm="layer_norm",
        activation="gelu_tanh",
        is_gated=False,
        attention_bias=True,
        attention_output_bias=True,
        mlp_bias=True,
        initializer_range=fields.number("initializer_range", 0.02),
        small_branch_ends=True,
        embedding_dropout=fields.probability("hidden_dropout_prob", "embd_pdrop"),
        hidden_dropout=fields.probability("hidden_dropout_prob", "resid_pdrop"),
        attention_dropout=fields.probability("attention_probs_dropout_prob", "attn_pdrop"),
        **read_common(fields, tied=True),
    )
    fields.raise_problems()
    return config


def write_config(config: ModelConfig) -> dict[str, Any]:
    """The config.json that describes `config`, that of a GPT-2; read back, it is `config` again.

    transformers has no GPT-3; GPT-2 is the same architecture.
    """
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": config.vocab_size,
        "n_embd": config.hidden_size,
        "n_inner": config.intermediate_size,
        "n_layer": config.num_hidden_layers,
        "n_head": config.num_attention_heads,
        "n_positions": config.max_position_embeddings,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": config.norm_eps,
        "initializer_range": config.initializer_range,
        "embd_pdrop": config.embedding_dropout,
        "resid_pdrop": config.hidden_dropout,
        "attn_pdrop": config.attention_dropout,
        **write_common(config),
    }


_NAMES = {
    "embedding": "transformer.wte",
    "positions": "transformer.wpe",
    "layers": "transformer.h",
    "attention_norm": "ln_1",
    "attention.output": "attn.c_proj",
    "feed_forward_norm": "ln_2",
    "feed_forward.up": "mlp.c_fc",
    "feed_forward.down": "mlp.c_proj",
    "norm": "transformer.ln_f",
    "head": "lm_head",
}
# The causal mask.
PASSED_OVER = (".attn.bias", ".attn.masked_bias")


def source(canonical: str, config: ModelConfig) -> Source:
    """Where a tensor stands in Hugging Face's files, whose weights are [in, out] but the head's."""
    found = named_source(canonical, _NAMES, {"attn.c_attn": query_key_value(config)})
    return replace(found, is_transposed=canonical == "head.weight")
