"""Baichuan 1 and 2: what their published configs and weights are called.

LLaMA's architecture with query, key and value in one matrix. The models of 7B turn queries and
keys by their positions, those of 13B have linear biases (ALiBi) instead. Baichuan 2
(arXiv:2309.10305) scales the rows of its head to length one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.models.families import llama
from llm_pretrain.models.families.fields import Fields
from llm_pretrain.models.families.published import Source, named_source, query_key_value

MODEL_TYPES = ("baichuan",)

# Settings that would change the arithmetic, with the values that this decoder computes.
_SUPPORTED = {
    # The factor of a second loss, on the size of the logits.
    "z_loss_weight": (0, None),
    "attention_bias": (False, None),
}


def read_config(published: Mapping[str, Any], source: str) -> ModelConfig:
    """The model that a published config.json describes.

    Where no "alibi" says so, a model without "max_position_embeddings" has linear biases: that is
    how the published files of 13B differ from those of 7B. "z_loss_weight" stands in those of
    Baichuan 2 alone, which has the scaled head.

    Args:
        published: the parsed file.
        source: the file's name for error messages.

    Raises:
        ConfigError: every key that is missing, malformed or beyond this decoder.
    """
    fields = Fields(published, source)
    fields.require_supported(_SUPPORTED)
    heads = published.get("num_attention_heads")
    fields.require_supported({"num_key_value_heads": (heads, None)})
    fields.raise_problems()
    length = "max_position_embeddings"
    if not fields.has(length):
        published = {
            "alibi": True,
            **published,
            length: fields.positive_integer("model_max_length", 4096),
        }
    config = llama.read_config(published, source)
    return replace(config, family="baichuan", norm_head=fields.has("z_loss_weight"))


def write_config(config: ModelConfig) -> dict[str, Any]:
    """The config.json that describes `config`; read back, it is `config` again.

    The classes of "auto_map" are those of the files that stand beside the published weights.
    """
    # The classes are told apart by the case of one letter.
    name = "Baichuan" if _is_later(config) else "BaiChuan"
    published = {
        **llama.write_config(config),
        "architectures": [f"{name}ForCausalLM"],
        "auto_map": {
            "AutoConfig": f"configuration_baichuan.{name}Config",
            "AutoModelForCausalLM": f"modeling_baichuan.{name}ForCausalLM",
        },
        "model_type": "baichuan",
        "model_max_length": config.max_position_embeddings,
    }
    if config.alibi:
        del published["max_position_embeddings"]
    if config.norm_head:
        published["z_loss_weight"] = 0
    return published


def _is_later(config: ModelConfig) -> bool:
    """Whether the model is not of the first release, of 7B."""
    return config.alibi or config.norm_head


PASSED_OVER = llama.PASSED_OVER


def source(canonical: str, config: ModelConfig) -> Source:
    """Where a tensor stands in Hugging Face's files."""
    return named_source(canonical, llama.NAMES, {"self_attn.W_pack": query_key_value(config)})
