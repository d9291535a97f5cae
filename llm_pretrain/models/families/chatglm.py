"""ChatGLM-6B and GLM-130B: what their published configs and weights are called.

Zeng et al., arXiv:2210.02414; Du et al., arXiv:2103.10360. A branch is added to its normalised
input, times sqrt(2 L) for L layers, and a sample's context sees all of itself. ChatGLM-6B has
positions in two dimensions and GELU; GLM-130B one dimension and GEGLU, and no published
config.json: its settings stand here under the names of PaddleNLP's "chatglm" and of the paper's
table of hyperparameters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.models.families.chatglm2 import AUTO_MAP, ChatGlm2
from llm_pretrain.models.families.family import (
    Family,
    Values,
    common_keys,
    equal_heads,
    four_times_hidden,
    key,
)
from llm_pretrain.models.families.fields import Fields
from llm_pretrain.models.families.published import Packed, gate_up, query_key_value

# Tokens of samples with blanks: without one of them, none can be made.
_BLANKS = {
    "mask_token_id": "mask_token_id",
    "gmask_token_id": "gmask_token_id",
    "bos_token_id": "start_token_id",
    "eos_token_id": "end_token_id",
}


class ChatGlm(Family):
    """In Hugging Face's or PaddleNLP's spelling; a config of ChatGLM2's is read as such."""

    model_types = ("chatglm",)
    architecture = "ChatGLMForConditionalGeneration"
    keys = (
        key("vocab_size", Fields.positive_integer),
        key("hidden_size", Fields.positive_integer),
        key(
            "intermediate_size",
            Fields.positive_integer,
            "intermediate_size",
            "inner_hidden_size",
            default=four_times_hidden,
        ),
        key("num_hidden_layers", Fields.positive_integer, "num_hidden_layers", "num_layers"),
        key("num_attention_heads", Fields.positive_integer),
        key("rope.is_two_dimensional", Fields.flag, "position_encoding_2d", default=True),
        key(
            "max_position_embeddings",
            Fields.positive_integer,
            "max_sequence_length",
            default=2048,
        ),
        key("norm_eps", Fields.number, "layernorm_epsilon", default=1e-5),
        key(
            "embedding_gradient_share",
            Fields.share,
            "shrink_embedding_gradient_alpha",
            default=1.0,
        ),
        key("blank_infilling.long_share", Fields.share, "gpt_prob", default=1.0),
        key("hidden_dropout", Fields.probability),
        key("attention_dropout", Fields.probability),
        *common_keys(tied=True),
    )
    fixed = {
        "norm": "layer_norm",
        "attention_bias": True,
        "attention_output_bias": True,
        "mlp_bias": True,
        "residual_from_norm": True,
    }
    supported = {
        "activation": ("gelu", "geglu", None),
        "pre_seq_len": (None,),
        "quantization_bit": (0, None),
        "use_long_sequence_strategies": (False, None),
    }
    names = {
        "embedding": "transformer.word_embeddings",
        "layers": "transformer.layers",
        "attention_norm": "input_layernorm",
        "attention.output": "attention.dense",
        "feed_forward_norm": "post_attention_layernorm",
        "feed_forward.up": "mlp.dense_h_to_4h",
        "feed_forward.down": "mlp.dense_4h_to_h",
        "norm": "transformer.final_layernorm",
        "head": "lm_head",
    }
    ignored = ("rotary_emb.inv_freq",)

    def read_config(self, published: Mapping[str, Any], source: str) -> ModelConfig:
        """As every family's; "padded_vocab_size" is ChatGLM2's."""
        if "padded_vocab_size" in published:
            return ChatGlm2().read_config(published, source)
        return super().read_config(published, source)

    def complete(self, values: Values, fields: Fields) -> None:
        equal_heads(values, fields)
        is_two_dimensional, head_dim = values["rope.is_two_dimensional"], values["head_dim"]
        if head_dim % (4 if is_two_dimensional else 2):
            fields.problem("hidden_size", f"heads of {head_dim} are not whole pairs to rotate")
        values["is_gated"] = is_gated = fields.values.get("activation") == "geglu"
        values["activation"] = "gelu" if is_gated else "gelu_tanh"
        values["residual_scale"] = math.sqrt(2 * values["num_hidden_layers"])
        values["embedding_dropout"] = values["hidden_dropout"]
        for name, field in _BLANKS.items():
            token = fields.required_token(name, values["vocab_size"])
            values[f"blank_infilling.{field}"] = token
        values["blank_infilling.block_positions"] = is_two_dimensional

    def also_written(self, model: ModelConfig) -> dict[str, Any]:
        assert model.blank_infilling is not None
        return {
            # GLM-130B was not published as files for transformers.
            **({} if model.is_gated else {"auto_map": AUTO_MAP}),
            "activation": "geglu" if model.is_gated else "gelu",
            "mask_token_id": model.blank_infilling.mask_token_id,
            "gmask_token_id": model.blank_infilling.gmask_token_id,
        }

    def packed(self, model: ModelConfig) -> dict[str, Packed]:
        """Query, key and value head by head."""
        heads = model.num_attention_heads
        packed = {"attention.query_key_value": query_key_value(model, groups=heads)}
        if model.is_gated:
            packed["mlp.dense_h_to_4h"] = gate_up(model, gate_first=False)
        return packed
