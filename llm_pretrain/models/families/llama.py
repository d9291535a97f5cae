"""LLaMA 1, 2 and 3: what their published configs and weights are called.

Touvron et al., arXiv:2302.13971 and arXiv:2307.09288; Llama 3: arXiv:2407.21783.
"""

from __future__ import annotations

from typing import Any

from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.models.families.family import (
    SIZES,
    Family,
    Values,
    common_keys,
    key,
    width_of_heads,
)
from llm_pretrain.models.families.fields import Fields
from llm_pretrain.models.families.rope import read_rope, write_rope


class Llama(Family):
    """In the older or the present spelling of transformers, or PaddleNLP's.

    Rotary embedding is written in both of the former, so that old and new versions of other
    programs read the same model. "alibi" is PaddleNLP's.
    """

    model_types = ("llama",)
    architecture = "LlamaForCausalLM"
    keys = (
        *SIZES,
        key(
            "num_key_value_heads",
            Fields.positive_integer,
            default=lambda values: values["num_attention_heads"],
        ),
        key("head_dim", Fields.positive_integer, default=width_of_heads),
        key("max_position_embeddings", Fields.positive_integer, default=2048),
        key("norm_eps", Fields.number, "rms_norm_eps", default=1e-6),
        key("attention_bias", Fields.flag, default=False),
        key("mlp_bias", Fields.flag, default=False),
        key("attention_dropout", Fields.probability),
        *common_keys(),
    )
    written = {"hidden_act": "silu"}
    supported = {
        "hidden_act": ("silu", "swish"),
        "use_long_sequence_strategies": (False, None),
        "quantization_config": (None,),
        "partial_rotary_factor": (1, None),
    }
    names = {
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
    ignored = ("rotary_emb.inv_freq",)

    def complete(self, values: Values, fields: Fields) -> None:
        hidden, heads = values["hidden_size"], values["num_attention_heads"]
        if hidden % heads and not fields.values.get("head_dim"):
            fields.problem(
                "hidden_size", f"{hidden} is not a multiple of num_attention_heads ({heads})"
            )
        key_heads, head_dim = values["num_key_value_heads"], values["head_dim"]
        if heads % key_heads:
            fields.problem(
                "num_key_value_heads", f"{key_heads} does not divide {heads} attention heads"
            )
        values["alibi"] = alibi = fields.flag("alibi", False)
        if head_dim % 2 and not alibi:
            fields.problem("head_dim", f"{head_dim} is odd; rotary embedding needs pairs")
        if not alibi:
            values["rope"] = read_rope(fields, values["max_position_embeddings"], head_dim)
        elif key_heads == heads and not values["attention_bias"]:
            # A LLaMA with linear biases is PaddleNLP's Baichuan-13B; transformers would take no
            # notice of "alibi" in a LLaMA.
            values["family"] = "baichuan"
        values.setdefault("attention_output_bias", values["attention_bias"])

    def also_written(self, model: ModelConfig) -> dict[str, Any]:
        return {"alibi": True} if model.rope is None else write_rope(model.rope)
