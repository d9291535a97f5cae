"""GPT-2 and GPT-3: what their published configs and weights are called.

GPT-2 (Radford et al., 2019) is model type "gpt2" of transformers; GPT-3 (arXiv:2005.14165), without
its sparse layers, is model type "gpt" of PaddleNLP. Both have one architecture, and the weights of
both stand under GPT-2's names in Hugging Face's files, which PaddleNLP reads too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_pretrain.config.model_config import LearnedPositions, ModelConfig
from llm_pretrain.models.families.fields import Fields
from llm_pretrain.models.families.published import QUERY_KEY_VALUE, Source, third

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
    for key, supported in _SUPPORTED.items():
        fields.require_supported(key, supported)

    def size(key: str, default: int | None = None) -> int:
        return fields.positive_integer(fields.first(key, _GPT2_KEYS[key]), default)

    hidden_size, heads = size("hidden_size"), size("num_attention_heads")
    if hidden_size % heads:
        fields.problem("hidden_size", f"{hidden_size} is not a multiple of {heads} attention heads")
    config = ModelConfig(
        family="gpt",
        vocab_size=fields.positive_integer("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=size("intermediate_size", 4 * hidden_size),
        num_hidden_layers=size("num_hidden_layers"),
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=max(hidden_size // heads, 1),
        max_position_embeddings=size("max_position_embeddings", 1024),
        norm_eps=fields.number("layer_norm_epsilon", 1e-5),
        learned_positions=LearnedPositions(),
        norm="layer_norm",
        activation="gelu_tanh",
        is_gated=False,
        tie_word_embeddings=fields.flag("tie_word_embeddings", True),
        attention_bias=True,
        attention_output_bias=True,
        mlp_bias=True,
        initializer_range=fields.number("initializer_range", 0.02),
        small_branch_ends=True,
        embedding_dropout=fields.probability("hidden_dropout_prob", "embd_pdrop"),
        hidden_dropout=fields.probability("hidden_dropout_prob", "resid_pdrop"),
        attention_dropout=fields.probability("attention_probs_dropout_prob", "attn_pdrop"),
        fuse_attention_qkv=fields.flag("fuse_attention_qkv", False),
        bos_token_id=fields.token("bos_token_id"),
        eos_token_id=fields.tokens("eos_token_id"),
        pad_token_id=fields.token("pad_token_id"),
    )
    fields.raise_problems()
    return config


def write_config(config: ModelConfig) -> dict[str, Any]:
    """The config.json that describes `config`, that of a GPT-2; read back, it is `config` again.

    transformers has no GPT-3; GPT-2 is the same architecture.
    """
    eos = config.eos_token_id
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
        "tie_word_embeddings": config.tie_word_embeddings,
        "initializer_range": config.initializer_range,
        "embd_pdrop": config.embedding_dropout,
        "resid_pdrop": config.hidden_dropout,
        "attn_pdrop": config.attention_dropout,
        "fuse_attention_qkv": config.fuse_attention_qkv,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": list(eos) if isinstance(eos, tuple) else eos,
        "pad_token_id": config.pad_token_id,
    }


_LAYERS = {
    "embedding": "wte",
    "positions": "wpe",
    "norm": "ln_f",
    "attention_norm": "ln_1",
    "attention.output": "attn.c_proj",
    "feed_forward_norm": "ln_2",
    "feed_forward.up": "mlp.c_fc",
    "feed_forward.down": "mlp.c_proj",
}


def source(canonical: str, config: ModelConfig) -> Source:
    """Where a tensor stands in Hugging Face's files, whose linear weights are [in, out] here."""
    layer, _, kind = canonical.rpartition(".")
    if layer == "head":
        return Source("lm_head.weight", is_transposed=True)
    scope = "transformer."
    if layer.startswith("layers."):
        _, index, layer = layer.split(".", 2)
        scope = f"transformer.h.{index}."
    name = layer.removeprefix("attention.")
    if name in QUERY_KEY_VALUE:
        outputs = third(name, config.num_attention_heads * config.head_dim)
        return Source(f"{scope}attn.c_attn.{kind}", outputs=outputs)
    return Source(f"{scope}{_LAYERS[layer]}.{kind}")


def is_redundant(published: str, config: ModelConfig) -> bool:
    """Whether published weights may hold a tensor that no parameter is read from."""
    if published.endswith((".attn.bias", ".attn.masked_bias")):  # the causal mask
        return True
    return published == "lm_head.weight" and config.tie_word_embeddings
