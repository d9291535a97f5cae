"""ChatGLM2-6B: what its published configs and weights are called.

The block is LLaMA's but for biases on query, key and value, and a rotary embedding that turns half
of every head, in neighbouring pairs. Its files call themselves "chatglm", as ChatGLM-6B's do;
PaddleNLP's call it "chatglm_v2".
"""

from __future__ import annotations

from typing import Any

from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.models.families.family import Family, Values, common_keys, key, width_of_heads
from llm_pretrain.models.families.fields import Fields
from llm_pretrain.models.families.published import Packed, gate_up, query_key_value

_CLASS = "modeling_chatglm.ChatGLMForConditionalGeneration"
AUTO_MAP = {
    "AutoConfig": "configuration_chatglm.ChatGLMConfig",
    "AutoModel": _CLASS,
    "AutoModelForSeq2SeqLM": _CLASS,
}
"""Classes in the files that stand beside the published weights, those of ChatGLM-6B too."""


class ChatGlm2(Family):
    """In Hugging Face's or PaddleNLP's spelling."""

    model_types = ("chatglm_v2",)
    architecture = "ChatGLMForConditionalGeneration"
    keys = (
        key("vocab_size", Fields.positive_integer, "vocab_size", "padded_vocab_size"),
        key("hidden_size", Fields.positive_integer),
        key("intermediate_size", Fields.positive_integer, "intermediate_size", "ffn_hidden_size"),
        key("num_hidden_layers", Fields.positive_integer, "num_hidden_layers", "num_layers"),
        key("num_attention_heads", Fields.positive_integer),
        key("head_dim", Fields.positive_integer, "kv_channels", default=width_of_heads),
        key(
            "max_position_embeddings",
            Fields.positive_integer,
            "seq_length",
            "max_sequence_length",
            default=2048,
            written="seq_length",
        ),
        key("norm_eps", Fields.number, "layernorm_epsilon", default=1e-5),
        key("mlp_bias", Fields.flag, "add_bias_linear", default=False),
        key("hidden_dropout", Fields.probability),
        key("attention_dropout", Fields.probability),
        *common_keys(),
    )
    fixed = {"rope.pairs": "neighbours"}
    written = {
        "auto_map": AUTO_MAP,
        "model_type": "chatglm",
        "multi_query_attention": True,
        "rmsnorm": True,
        "post_layer_norm": True,
        "original_rope": True,
    }
    supported = {
        "rmsnorm": (True, None),
        "post_layer_norm": (True, None),
        "apply_residual_connection_post_layernorm": (False, None),
        "original_rope": (True, None),
        "rope_ratio": (1, None),
        "interleaved_qkv": (False, None),
        "fp32_residual_connection": (False, None),
        "pre_seq_len": (None,),
        "quantization_bit": (0, None),
        "use_long_sequence_strategies": (False, None),
    }
    names = {
        "embedding": "transformer.embedding.word_embeddings",
        "layers": "transformer.encoder.layers",
        "attention_norm": "input_layernorm",
        "attention.output": "self_attention.dense",
        "feed_forward_norm": "post_attention_layernorm",
        "feed_forward.down": "mlp.dense_4h_to_h",
        "norm": "transformer.encoder.final_layernorm",
        "head": "transformer.output_layer",
    }
    ignored = ("rotary_pos_emb.inv_freq",)

    def complete(self, values: Values, fields: Fields) -> None:
        heads, head_dim = values["num_attention_heads"], values["head_dim"]
        if head_dim % 4:
            fields.problem("kv_channels", f"{head_dim} has no half that is made of pairs")
        values["rope.rotary_dim"] = head_dim // 2
        key_heads = heads
        if fields.flag("multi_query_attention", fields.has("multi_query_group_num")):
            key_heads = fields.positive_integer("multi_query_group_num", 1)
        if heads % key_heads:
            fields.problem(
                "multi_query_group_num", f"{key_heads} does not divide {heads} attention heads"
            )
        values["num_key_value_heads"] = key_heads
        bias = values["attention_output_bias"] = values["mlp_bias"]
        values["attention_bias"] = bias or fields.flag("add_qkv_bias", False)

    def also_written(self, model: ModelConfig) -> dict[str, Any]:
        return {
            "multi_query_group_num": model.num_key_value_heads,
            "add_qkv_bias": model.attention_bias,
        }

    def packed(self, model: ModelConfig) -> dict[str, Packed]:
        return {
            "self_attention.query_key_value": query_key_value(model),
            "mlp.dense_h_to_4h": gate_up(model),
        }
