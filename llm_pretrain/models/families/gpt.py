"""GPT-2 and GPT-3: what their published configs and weights are called.

GPT-2 (Radford et al., 2019) is model type "gpt2" of transformers; GPT-3 (arXiv:2005.14165), without
its sparse layers, is model type "gpt" of PaddleNLP. Both have one architecture, and the weights of
both stand under GPT-2's names in Hugging Face's files, which PaddleNLP reads too.
"""

from __future__ import annotations

from dataclasses import replace

from llm_pretrain.config.model_config import LearnedPositions, ModelConfig
from llm_pretrain.models.families.family import (
    GPT_BLOCK,
    Family,
    Key,
    Values,
    common_keys,
    equal_heads,
    four_times_hidden,
    key,
)
from llm_pretrain.models.families.fields import Fields
from llm_pretrain.models.families.published import Packed, Source, query_key_value


def _size(field: str, of_transformers: str, default: object = None) -> Key:
    return key(field, Fields.positive_integer, field, of_transformers, default=default)


class Gpt(Family):
    """Written as a GPT-2, since transformers has no GPT-3.

    PaddleNLP's name of a setting counts before that of transformers, because it is under the former
    that a run changes it.
    """

    model_types = ("gpt", "gpt2")
    architecture = "GPT2LMHeadModel"
    keys = (
        key("vocab_size", Fields.positive_integer),
        _size("hidden_size", "n_embd"),
        _size("intermediate_size", "n_inner", four_times_hidden),
        _size("num_hidden_layers", "n_layer"),
        _size("num_attention_heads", "n_head"),
        _size("max_position_embeddings", "n_positions", 1024),
        key("norm_eps", Fields.number, "layer_norm_epsilon", default=1e-5),
        key("embedding_dropout", Fields.probability, "hidden_dropout_prob", "embd_pdrop"),
        key("hidden_dropout", Fields.probability, "hidden_dropout_prob", "resid_pdrop"),
        key("attention_dropout", Fields.probability, "attention_probs_dropout_prob", "attn_pdrop"),
        *common_keys(tied=True),
    )
    fixed = {**GPT_BLOCK, "learned_positions": LearnedPositions(), "small_branch_ends": True}
    defaults = {"embd_pdrop": 0.1, "resid_pdrop": 0.1, "attn_pdrop": 0.1}
    written = {"model_type": "gpt2", "activation_function": "gelu_new"}
    supported = {
        # PaddleNLP takes the approximation by tanh where these say "gelu".
        "hidden_activation": ("gelu", None),
        "hidden_act": ("gelu", "gelu_new", None),
        # PaddleNLP computes with 1e-5 whatever stands here.
        "layer_norm_eps": (1e-5, None),
        "normalize_before": (True, None),
        "scale_qk_coeff": (1, None),
        # These are transformers'.
        "activation_function": ("gelu_new", "gelu_pytorch_tanh", None),
        "scale_attn_weights": (True, None),
        "scale_attn_by_inverse_layer_idx": (False, None),
        "add_cross_attention": (False, None),
        "quantization_config": (None,),
    }
    names = {
        "embedding": "transformer.wte",
        "positions": "transformer.wpe",
        "layers": "transformer.h",
        "attention_norm": "ln_1",
        "attention.output": "attn.c_proj",
        "feed_forward_norm": "ln_2",
        "feed_forward.up": "mlp.c_fc",
        "feed_forward.down": "mlp.c_proj",
        "norm": "transformer.ln_f",
        "head": "lm_head",
    }
    # The causal mask.
    ignored = (".attn.bias", ".attn.masked_bias")

    def complete(self, values: Values, fields: Fields) -> None:
        equal_heads(values, fields)

    def packed(self, model: ModelConfig) -> dict[str, Packed]:
        return {"attn.c_attn": query_key_value(model)}

    def source(self, canonical: str, model: ModelConfig) -> Source:
        """As every family's, but weights are [in, out], except the head's."""
        found = super().source(canonical, model)
        return replace(found, is_transposed=canonical == "head.weight")
