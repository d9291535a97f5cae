"""Qwen, the first generation: what its published configs and weights are called.

Bai et al., arXiv:2309.16609. LLaMA's architecture with biases on queries, keys and values, which
stand in one matrix, and with other names. "intermediate_size" is that of gate and up together.
"""

from __future__ import annotations

from typing import Any

from llm_pretrain.config.model_config import Extrapolation, ModelConfig
from llm_pretrain.models.families.family import (
    SIZES,
    Family,
    Values,
    common_keys,
    key,
    width_of_heads,
)
from llm_pretrain.models.families.fields import Fields
from llm_pretrain.models.families.published import Packed, query_key_value
from llm_pretrain.models.families.rope import read_theta


class Qwen(Family):
    """The classes of "auto_map" are those of the files that stand beside the published weights."""

    model_types = ("qwen",)
    architecture = "QWenLMHeadModel"
    keys = (
        *SIZES,
        key("head_dim", Fields.positive_integer, "kv_channels", default=width_of_heads),
        key("max_position_embeddings", Fields.positive_integer, default=8192),
        key("norm_eps", Fields.number, "layer_norm_epsilon", default=1e-6),
        key("rope.theta", read_theta, "rotary_emb_base"),
        key("embedding_dropout", Fields.probability, "emb_dropout_prob"),
        key("attention_dropout", Fields.probability, "attn_dropout_prob"),
        *common_keys(),
    )
    fixed = {"attention_bias": True}
    written = {
        "auto_map": {
            "AutoConfig": "configuration_qwen.QWenConfig",
            "AutoModelForCausalLM": "modeling_qwen.QWenLMHeadModel",
        },
        "rotary_pct": 1.0,
        "no_bias": True,
        "scale_attn_weights": True,
    }
    supported = {
        "no_bias": (True, None),
        "rotary_pct": (1, None),
        "scale_attn_weights": (True, None),
        "use_long_sequence_strategies": (False, None),
        "quantization_config": (None,),
    }
    names = {
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
    ignored = ("rotary_emb.inv_freq",)

    def complete(self, values: Values, fields: Fields) -> None:
        hidden, heads = values["hidden_size"], values["num_attention_heads"]
        head_dim, width = values["head_dim"], values["intermediate_size"]
        if heads * head_dim != hidden:
            fields.problem(
                "kv_channels", f"{heads} heads of {head_dim} do not fill hidden_size ({hidden})"
            )
        if head_dim % 2:
            fields.problem("kv_channels", f"{head_dim} is odd; rotary embedding needs pairs")
        if width % 2:
            fields.problem("intermediate_size", f"{width} is odd; half of it is the layer's width")
        values["intermediate_size"] = width // 2
        values["num_key_value_heads"] = heads
        values["extrapolation"] = _read_extrapolation(fields)

    def also_written(self, model: ModelConfig) -> dict[str, Any]:
        beyond = model.extrapolation or Extrapolation(
            model.max_position_embeddings, larger_base=False, scaled_queries=False
        )
        return {
            "intermediate_size": 2 * model.intermediate_size,
            "seq_length": beyond.trained_length,
            "use_dynamic_ntk": beyond.larger_base,
            "use_logn_attn": beyond.scaled_queries,
        }

    def packed(self, model: ModelConfig) -> dict[str, Packed]:
        return {"attn.c_attn": query_key_value(model)}


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
