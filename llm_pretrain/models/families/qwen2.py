"""Qwen2, Qwen2.5 and Qwen3, dense: what their published configs and weights are called.

Yang et al., arXiv:2407.10671, arXiv:2412.15115 and arXiv:2505.09388. LLaMA's architecture; Qwen2
has biases on queries, keys and values, and Qwen3 norms of every query and key head instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.models.families import llama
from llm_pretrain.models.families.fields import Fields
from llm_pretrain.models.families.published import Source, named_source

MODEL_TYPES = ("qwen2", "qwen3")

# Settings that would change the arithmetic, with the values that this decoder computes. Without
# "use_sliding_window" the other keys of the window have no effect.
_SUPPORTED = {
    "use_sliding_window": (False, None),
    "use_mrope": (False, None),
    # PaddleNLP takes no notice of it here.
    "rope_scaling_type": (None,),
    "alibi": (False, None),
    "mlp_bias": (False, None),
}
_DEFAULTS = {
    "qwen2": {"max_position_embeddings": 32768},
    "qwen3": {"max_position_embeddings": 32768, "head_dim": 128},
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
    if "sliding_attention" in (published.get("layer_types") or ()):
        fields.problem("layer_types", "sliding windows are not supported")
    fields.raise_problems()
    family = published["model_type"]
    config = llama.read_config({**_DEFAULTS[family], **published}, source)
    config = replace(config, family=family)
    if family == "qwen2":
        return replace(config, attention_bias=True, attention_output_bias=False)
    return replace(config, query_key_norm=True)


def write_config(config: ModelConfig) -> dict[str, Any]:
    """The config.json that describes `config`; read back, it is `config` again."""
    published = {
        **llama.write_config(config),
        "architectures": [f"{config.family.title()}ForCausalLM"],
        "model_type": config.family,
        "use_sliding_window": False,
    }
    del published["mlp_bias"]
    if config.family == "qwen2":
        del published["attention_bias"]
    return published


_NAMES = llama.NAMES | {
    "attention.query_norm": "self_attn.q_norm",
    "attention.key_norm": "self_attn.k_norm",
}
PASSED_OVER = llama.PASSED_OVER


def source(canonical: str, config: ModelConfig) -> Source:
    """Where a tensor stands in Hugging Face's files."""
    return named_source(canonical, _NAMES)
