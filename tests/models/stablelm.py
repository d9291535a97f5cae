"""StableLM (Stability AI, 2023 and 2024): what its published configs and weights are called.

LLaMA's block with layer norms, and a rotary embedding that turns the first part of every head.
docs/adding_a_family.md takes this file as its example; the program does not have it.
"""

from __future__ import annotations

from typing import Any

from llm_pretrain.config.model_config import ModelConfig, Rope
from llm_pretrain.models.families.family import Family, Values, common_keys, key, width_of_heads
from llm_pretrain.models.families.fields import Fields
from llm_pretrain.models.families.llama import Llama


class StableLm(Family):
    """In the older or the present spelling of transformers; written in the older."""

    model_types = ("stablelm",)
    architecture = "StableLmForCausalLM"
    keys = (
        key("vocab_size", Fields.positive_integer),
        key("hidden_size", Fields.positive_integer),
        key("intermediate_size", Fields.positive_integer),
        key("num_hidden_layers", Fields.positive_integer),
        key("num_attention_heads", Fields.positive_integer),
        key("num_key_value_heads", Fields.positive_integer),
        key("max_position_embeddings", Fields.positive_integer, default=4096),
        key("norm_eps", Fields.number, "layer_norm_eps", default=1e-5),
        key("attention_bias", Fields.flag, "use_qkv_bias", default=False),
        key("attention_dropout", Fields.probability),
        *common_keys(),
    )
    fixed = {"norm": "layer_norm"}
    written = {"hidden_act": "silu", "use_parallel_residual": False, "qk_layernorm": False}
    supported = {
        "hidden_act": ("silu", None),
        "use_parallel_residual": (False, None),
        "qk_layernorm": (False, None),
        "hidden_dropout": (0, None),
        "rope_scaling": (None,),
    }
    names = Llama.names
    ignored = Llama.ignored

    def complete(self, values: Values, fields: Fields) -> None:
        hidden, heads = values["hidden_size"], values["num_attention_heads"]
        if hidden % heads:
            fields.problem("hidden_size", f"{hidden} is not a multiple of {heads} attention heads")
        key_heads = values["num_key_value_heads"]
        if heads % key_heads:
            fields.problem("num_key_value_heads", f"{key_heads} does not divide {heads} heads")
        values["head_dim"] = head_dim = width_of_heads(values)
        # The present spelling has both settings of the rotary embedding in one object.
        rope = {**fields.values, **(fields.values.get("rope_parameters") or {})}
        turning = Fields(rope, fields.source, problems=fields.problems)
        turning.require_supported({"rope_type": ("default", None)})
        share = turning.number("partial_rotary_factor", 0.25)
        rotary_dim = int(share * head_dim)
        if rotary_dim % 2 or not 0 < rotary_dim <= head_dim:
            turning.problem(
                "partial_rotary_factor", f"{share} of {head_dim} dimensions is not whole pairs"
            )
        values["rope"] = Rope(turning.number("rope_theta", 1e4), rotary_dim=rotary_dim)

    def also_written(self, config: ModelConfig) -> dict[str, Any]:
        assert config.rope is not None
        assert config.rope.rotary_dim is not None
        return {
            "rope_theta": config.rope.theta,
            "partial_rotary_factor": config.rope.rotary_dim / config.head_dim,
        }
