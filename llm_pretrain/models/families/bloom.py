"""BLOOM: what its published configs and weights are called (arXiv:2211.05100)."""

from __future__ import annotations

from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.models.families.family import (
    GPT_BLOCK,
    Family,
    Values,
    common_keys,
    equal_heads,
    four_times_hidden,
    key,
)
from llm_pretrain.models.families.fields import Fields
from llm_pretrain.models.families.published import Packed, query_key_value


class Bloom(Family):
    """Sizes under the names of the first release ("n_layer", "n_embed") or those of today."""

    model_types = ("bloom",)
    architecture = "BloomForCausalLM"
    keys = (
        key("vocab_size", Fields.positive_integer),
        key(
            "hidden_size", Fields.positive_integer, "hidden_size", "n_embed", written="hidden_size"
        ),
        key("num_hidden_layers", Fields.positive_integer, "num_hidden_layers", "n_layer"),
        key("num_attention_heads", Fields.positive_integer, "num_attention_heads", "n_head"),
        key("max_position_embeddings", Fields.positive_integer, "seq_length", default=2048),
        key("norm_eps", Fields.number, "layer_norm_epsilon", default=1e-5),
        key("hidden_dropout", Fields.probability),
        key("attention_dropout", Fields.probability),
        *common_keys(tied=True),
    )
    fixed = {**GPT_BLOCK, "alibi": True, "embedding_norm": True}
    written = {"apply_residual_connection_post_layernorm": False}
    supported = {
        "apply_residual_connection_post_layernorm": (False, None),
        "use_long_sequence_strategies": (False, None),
        "quantization_config": (None,),
    }
    names = {
        "embedding": "transformer.word_embeddings",
        "embedding_norm": "transformer.word_embeddings_layernorm",
        "layers": "transformer.h",
        "attention_norm": "input_layernorm",
        "attention.output": "self_attention.dense",
        "feed_forward_norm": "post_attention_layernorm",
        "feed_forward.up": "mlp.dense_h_to_4h",
        "feed_forward.down": "mlp.dense_4h_to_h",
        "norm": "transformer.ln_f",
        "head": "lm_head",
    }

    def complete(self, values: Values, fields: Fields) -> None:
        values["intermediate_size"] = width = four_times_hidden(values)
        for name in filter(fields.has, ("intermediate_size", "n_inner")):
            if fields.values[name] != width:
                fields.problem(
                    name, f"{fields.values[name]!r}: BLOOM's is 4 x hidden_size, {width}"
                )
        equal_heads(values, fields)

    def packed(self, model: ModelConfig) -> dict[str, Packed]:
        """Query, key and value head by head."""
        heads = model.num_attention_heads
        return {"self_attention.query_key_value": query_key_value(model, groups=heads)}
