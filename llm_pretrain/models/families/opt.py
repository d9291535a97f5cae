"""OPT: what its published configs and weights are called (arXiv:2205.01068)."""

from __future__ import annotations

from typing import Any

from llm_pretrain.config.model_config import LearnedPositions, ModelConfig
from llm_pretrain.models.families.family import Family, Values, common_keys, equal_heads, key
from llm_pretrain.models.families.fields import Fields


class Opt(Family):
    """PaddleNLP's name of a setting counts before that of transformers: the run's own have it.

    OPT-350m alone is published with settings that are not
    supported: norms after the branches, and a smaller embedding.
    """

    model_types = ("opt",)
    architecture = "OPTForCausalLM"
    keys = (
        key("vocab_size", Fields.positive_integer),
        key("hidden_size", Fields.positive_integer),
        key("intermediate_size", Fields.positive_integer, "intermediate_size", "ffn_dim"),
        key("num_hidden_layers", Fields.positive_integer),
        key("num_attention_heads", Fields.positive_integer),
        key("max_position_embeddings", Fields.positive_integer, default=2048),
        key("mlp_bias", Fields.flag, "enable_bias", default=True),
        key("hidden_dropout", Fields.probability, "hidden_dropout_prob", "dropout"),
        key(
            "attention_dropout",
            Fields.probability,
            "attention_probs_dropout_prob",
            "attention_dropout",
        ),
        *(row for row in common_keys(tied=True) if row.field != "initializer_range"),
        key("initializer_range", Fields.number, "initializer_range", "init_std", default=0.02),
    )
    fixed = {
        "norm_eps": 1e-5,
        "learned_positions": LearnedPositions(offset=2),
        "norm": "layer_norm",
        "activation": "relu",
        "is_gated": False,
    }
    defaults = {"dropout": 0.1}
    written = {"activation_function": "relu", "do_layer_norm_before": True}
    supported = {
        "do_layer_norm_before": (True, None),
        "normalize_before": (True, None),
        "activation_function": ("relu", None),
        "hidden_act": ("relu", None),
        "layer_norm_elementwise_affine": (True, None),
        "_remove_final_layer_norm": (False, None),
        "layerdrop": (0, None),
        "quantization_config": (None,),
    }
    names = {
        "embedding": "model.decoder.embed_tokens",
        "positions": "model.decoder.embed_positions",
        "layers": "model.decoder.layers",
        "attention_norm": "self_attn_layer_norm",
        "attention.query": "self_attn.q_proj",
        "attention.key": "self_attn.k_proj",
        "attention.value": "self_attn.v_proj",
        "attention.output": "self_attn.out_proj",
        "feed_forward_norm": "final_layer_norm",
        "feed_forward.up": "fc1",
        "feed_forward.down": "fc2",
        "norm": "model.decoder.final_layer_norm",
        "head": "lm_head",
    }

    def complete(self, values: Values, fields: Fields) -> None:
        fields.require_supported({"word_embed_proj_dim": (values["hidden_size"], None)})
        equal_heads(values, fields)
        values["attention_bias"] = values["attention_output_bias"] = values["mlp_bias"]

    def also_written(self, model: ModelConfig) -> dict[str, Any]:
        return {"word_embed_proj_dim": model.hidden_size}
