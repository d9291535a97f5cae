"""Baichuan 1 and 2: what their published configs and weights are called.

LLaMA's architecture with query, key and value in one matrix. The models of 7B turn queries and
keys by their positions, those of 13B have linear biases (ALiBi) instead. Baichuan 2
(arXiv:2309.10305) scales the rows of its head to length one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.models.families.family import Values, key
from llm_pretrain.models.families.fields import Fields
from llm_pretrain.models.families.llama import Llama
from llm_pretrain.models.families.published import Packed, query_key_value

_LENGTH = "max_position_embeddings"


class Baichuan(Llama):
    """The published files of 13B differ from those of 7B in having no "max_position_embeddings".

    "z_loss_weight" stands in those of Baichuan 2 alone, which has the scaled head.
    """

    model_types = ("baichuan",)
    keys = (
        *(row for row in Llama.keys if row.field not in (_LENGTH, "num_key_value_heads")),
        key(_LENGTH, Fields.positive_integer, _LENGTH, "model_max_length", default=4096),
    )
    supported = Llama.supported | {
        # The factor of a second loss, on the size of the logits.
        "z_loss_weight": (0, None),
        "attention_bias": (False, None),
    }

    def read_config(self, published: Mapping[str, Any], source: str) -> ModelConfig:
        """As every family's; without "alibi", a model that gives no length has linear biases."""
        if published.get(_LENGTH) is None:
            published = {"alibi": True, **published}
        return super().read_config(published, source)

    def complete(self, values: Values, fields: Fields) -> None:
        heads = values["num_attention_heads"]
        fields.require_supported({"num_key_value_heads": (heads, None)})
        values["num_key_value_heads"] = heads
        super().complete(values, fields)
        values["norm_head"] = fields.has("z_loss_weight")

    def also_written(self, model: ModelConfig) -> dict[str, Any]:
        """The classes of "auto_map" are those of the files beside the published weights."""
        # The classes are told apart by the case of one letter: the first release was of 7B.
        name = "Baichuan" if model.alibi or model.norm_head else "BaiChuan"
        return {
            **super().also_written(model),
            "architectures": [f"{name}ForCausalLM"],
            "auto_map": {
                "AutoConfig": f"configuration_baichuan.{name}Config",
                "AutoModelForCausalLM": f"modeling_baichuan.{name}ForCausalLM",
            },
            "num_key_value_heads": model.num_key_value_heads,
            **({} if model.alibi else {_LENGTH: model.max_position_embeddings}),
            **({"z_loss_weight": 0} if model.norm_head else {}),
        }

    def packed(self, model: ModelConfig) -> dict[str, Packed]:
        return {"self_attn.W_pack": query_key_value(model)}
