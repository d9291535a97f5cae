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

from llm_pretrain.config.model_config import BlankInfilling, ModelConfig, Rope
from llm_pretrain.models.families import chatglm2
from llm_pretrain.models.families.common import equal_heads, read_common, write_common
from llm_pretrain.models.families.fields import Fields
from llm_pretrain.models.families.published import Source, gate_up, named_source, query_key_value

MODEL_TYPES = ("chatglm",)

# Settings that would change the arithmetic, with the values that this decoder computes.
_SUPPORTED = {
    "activation": ("gelu", "geglu", None),
    "pre_seq_len": (None,),
    "quantization_bit": (0, None),
    "use_long_sequence_strategies": (False, None),
}


def read_config(published: Mapping[str, Any], source: str) -> ModelConfig:
    """The model that a published config.json describes.

    Args:
        published: the parsed file, in Hugging Face's or PaddleNLP's spelling; that of a ChatGLM2
            is read as such.
        source: the file's name for error messages.

    Raises:
        ConfigError: every key that is missing, malformed or beyond this decoder.
    """
    if "padded_vocab_size" in published:
        return chatglm2.read_config(published, source)
    fields = Fields(published, source)
    fields.require_supported(_SUPPORTED)
    vocab_size = fields.positive_integer("vocab_size")
    hidden_size = fields.positive_integer("hidden_size")
    layers = fields.positive_integer(fields.first("num_hidden_layers", "num_layers"))
    is_gated = published.get("activation") == "geglu"
    is_two_dimensional = fields.flag("position_encoding_2d", True)
    heads = equal_heads(fields, hidden_size, fields.positive_integer("num_attention_heads"))
    if heads["head_dim"] % (4 if is_two_dimensional else 2):
        fields.problem("hidden_size", f"heads of {heads['head_dim']} are not whole pairs to rotate")
    config = ModelConfig(
        family="chatglm",
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=fields.positive_integer(
            fields.first("intermediate_size", "inner_hidden_size"), 4 * hidden_size
        ),
        num_hidden_layers=layers,
        **heads,
        max_position_embeddings=fields.positive_integer("max_sequence_length", 2048),
        norm_eps=fields.number("layernorm_epsilon", 1e-5),
        rope=Rope(is_two_dimensional=is_two_dimensional),
        norm="layer_norm",
        activation="gelu" if is_gated else "gelu_tanh",
        is_gated=is_gated,
        attention_bias=True,
        attention_output_bias=True,
        mlp_bias=True,
        residual_from_norm=True,
        residual_scale=math.sqrt(2 * layers),
        embedding_gradient_share=fields.share("shrink_embedding_gradient_alpha", 1.0),
        blank_infilling=_read_blanks(fields, vocab_size),
        initializer_range=fields.number("initializer_range", 0.02),
        embedding_dropout=fields.probability("hidden_dropout"),
        hidden_dropout=fields.probability("hidden_dropout"),
        attention_dropout=fields.probability("attention_dropout"),
        **read_common(fields, tied=True),
    )
    fields.raise_problems()
    return config


def _read_blanks(fields: Fields, vocab_size: int) -> BlankInfilling:
    """The tokens of samples with blanks: without one of them, none can be made."""
    return BlankInfilling(
        mask_token_id=fields.required_token("mask_token_id", vocab_size),
        gmask_token_id=fields.required_token("gmask_token_id", vocab_size),
        start_token_id=fields.required_token("bos_token_id", vocab_size),
        end_token_id=fields.required_token("eos_token_id", vocab_size),
        long_share=fields.share("gpt_prob", 1.0),
        block_positions=fields.flag("position_encoding_2d", True),
    )


def write_config(config: ModelConfig) -> dict[str, Any]:
    """The config.json that describes `config`; read back, it is `config` again."""
    assert config.rope is not None
    assert config.blank_infilling is not None
    return {
        "architectures": ["ChatGLMForConditionalGeneration"],
        # GLM-130B was not published as files for transformers.
        **({} if config.is_gated else {"auto_map": chatglm2.AUTO_MAP}),
        "model_type": "chatglm",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "inner_hidden_size": config.intermediate_size,
        "num_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "activation": "geglu" if config.is_gated else "gelu",
        "position_encoding_2d": config.rope.is_two_dimensional,
        "max_sequence_length": config.max_position_embeddings,
        "layernorm_epsilon": config.norm_eps,
        "shrink_embedding_gradient_alpha": config.embedding_gradient_share,
        "gpt_prob": config.blank_infilling.long_share,
        "initializer_range": config.initializer_range,
        "hidden_dropout": config.hidden_dropout,
        "attention_dropout": config.attention_dropout,
        "mask_token_id": config.blank_infilling.mask_token_id,
        "gmask_token_id": config.blank_infilling.gmask_token_id,
        **write_common(config),
    }


_NAMES = {
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
PASSED_OVER = ("rotary_emb.inv_freq",)


def source(canonical: str, config: ModelConfig) -> Source:
    """Where a tensor stands in Hugging Face's files: query, key and value head by head."""
    packed = {
        "attention.query_key_value": query_key_value(config, groups=config.num_attention_heads)
    }
    if config.is_gated:
        packed["mlp.dense_h_to_4h"] = gate_up(config, gate_first=False)
    return named_source(canonical, _NAMES, packed)
