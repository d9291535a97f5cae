"""StableLM (Stability AI, 2023 and 2024): what its published configs and weights are called.

LLaMA's block with layer norms, and a rotary embedding that turns the first part of every head.
docs/adding_a_family.md takes this file as its example; the program does not have it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.models.families import llama
from llm_pretrain.models.families.fields import Fields
from llm_pretrain.models.families.published import Source

MODEL_TYPES = ("stablelm",)

# Settings that would change the arithmetic, with the values that this decoder computes.
_SUPPORTED = {
    "use_parallel_residual": (False, None),
    "qk_layernorm": (False, None),
    "hidden_dropout": (0, None),
    "rope_scaling": (None,),
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
    fields.require_supported(_SUPPORTED)
    # The present spelling has both settings of the rotary embedding in one object.
    rope = {**published, **(published.get("rope_parameters") or {})}
    turning = Fields(rope, source, problems=fields.problems)
    turning.require_supported({"rope_type": ("default", None)})
    share, theta = turning.number("partial_rotary_factor", 0.25), turning.number("rope_theta", 1e4)
    norm_eps = fields.number("layer_norm_eps", 1e-5)
    has_biases = fields.flag("use_qkv_bias", False)
    fields.raise_problems()
    alike = {key: published[key] for key in _AS_LLAMA if key in published}
    config = llama.read_config({**alike, "rope_theta": theta, "rms_norm_eps": norm_eps}, source)
    assert config.rope is not None
    rotary_dim = int(share * config.head_dim)
    if rotary_dim % 2 or not 0 < rotary_dim <= config.head_dim:
        turning.problem(
            "partial_rotary_factor", f"{share} of {config.head_dim} dimensions is not whole pairs"
        )
    fields.raise_problems()
    return replace(
        config,
        family="stablelm",
        norm="layer_norm",
        attention_bias=has_biases,
        rope=replace(config.rope, rotary_dim=rotary_dim),
    )


_AS_LLAMA = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "tie_word_embeddings",
    "initializer_range",
    "attention_dropout",
    "fuse_attention_qkv",
    "fuse_attention_ffn",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)


def write_config(config: ModelConfig) -> dict[str, Any]:
    """The config.json that describes `config`; read back, it is `config` again."""
    assert config.rope is not None
    assert config.rope.rotary_dim is not None
    alike = llama.write_config(config)
    return {
        **{key: alike[key] for key in _AS_LLAMA},
        "architectures": ["StableLmForCausalLM"],
        "model_type": "stablelm",
        "layer_norm_eps": config.norm_eps,
        "rope_theta": config.rope.theta,
        "partial_rotary_factor": config.rope.rotary_dim / config.head_dim,
        "use_qkv_bias": config.attention_bias,
        "use_parallel_residual": False,
        "qk_layernorm": False,
    }


PASSED_OVER = llama.PASSED_OVER


def source(canonical: str, config: ModelConfig) -> Source:
    """Where a tensor stands in Hugging Face's files."""
    return llama.source(canonical, config)
