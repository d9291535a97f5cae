"""Where the tensors of a family stand in files that PaddleNLP reads and writes.

The names are those of PaddleNLP 3.0's model classes; weights of linear layers are [in, out], as
here. Its optional fused layers (`fuse_attention_qkv`, `fuse_attention_ffn`) have tensors of
their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from llm_pretrain.config import ConfigError
from llm_pretrain.config.model_config import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    ModelConfig,
    RopeScaling,
)
from llm_pretrain.models.families import family_of
from llm_pretrain.models.families.llama import Llama
from llm_pretrain.models.families.published import (
    Packed,
    Source,
    gate_up,
    named_source,
    query_key_value,
)
from llm_pretrain.models.families.rope import SCALING_NAMES


@dataclass(frozen=True)
class _Peer:
    """One of PaddleNLP's models."""

    architecture: str
    source: Callable[[str, ModelConfig], Source]
    keys: dict[str, str] = field(default_factory=dict)
    """Keys of its config.json that are not in Hugging Face's, and what they are there."""
    settled: dict[str, Any] = field(default_factory=dict)
    """Fields of `ModelConfig` that have one value in its code."""
    scalings: dict[type[RopeScaling], str | None] = field(default_factory=dict)
    """Scalings of its rotary embedding, with its "rope_scaling_type"; None is Hugging Face's."""
    head_copy: str | None = None
    """What its head calls a copy of the embedding's table."""


def source(canonical: str, model: ModelConfig) -> Source:
    """Where a tensor stands in PaddleNLP's files.

    Raises:
        ConfigError: PaddleNLP has no such model.
    """
    peer = _peer_of(model)
    found = replace(peer.source(canonical, model), is_transposed=False)
    return replace(found, copy=peer.head_copy) if canonical == "embedding.weight" else found


def write_config(model: ModelConfig) -> dict[str, Any]:
    """The config.json that describes `model` to PaddleNLP.

    Raises:
        ConfigError: PaddleNLP has no such model, or would compute it otherwise.
    """
    peer = _peer_of(model)
    if differences := _differences(peer, model):
        raise ConfigError([f"PaddleNLP's {peer.architecture} {text}." for text in differences])
    published = family_of(model).write_config(model)
    published |= {"model_type": model.family, "architectures": [peer.architecture]}
    published |= {key: published[other] for key, other in peer.keys.items()}
    # What a run fuses is split in the files, and its Qwen would not fuse what it reads.
    published |= {"fuse_attention_qkv": False, "fuse_attention_ffn": False}
    scaling = model.rope.scaling if model.rope else None
    if scaling and (kind := peer.scalings[type(scaling)]):
        published |= {"rope_scaling_type": kind, "rope_scaling_factor": scaling.factor}
    return published


def is_redundant(published: str, model: ModelConfig) -> bool:
    """Whether PaddleNLP's files may hold a tensor that no parameter is read from."""
    if published.endswith(".inv_freq"):
        return True
    return published.startswith("lm_head.") and model.tie_word_embeddings


def _peer_of(model: ModelConfig) -> _Peer:
    peer = _MODELS.get(model.family)
    if peer is None:
        raise ConfigError(
            [
                f"PaddleNLP has no model of the family {model.family!r}; "
                f"its layout is known for {', '.join(_MODELS)}."
            ]
        )
    return peer


def _differences(peer: _Peer, model: ModelConfig) -> list[str]:
    """What `peer` would compute otherwise than `model` has it."""
    differences = [
        f"has {key} {value}, not {getattr(model, key)}"
        for key, value in peer.settled.items()
        if getattr(model, key) != value
    ]
    head_dim = model.hidden_size // model.num_attention_heads
    if model.head_dim != head_dim:
        differences.append(
            f"has heads of hidden_size / num_attention_heads, {head_dim}, not of {model.head_dim}"
        )
    scaling = model.rope.scaling if model.rope else None
    if scaling and type(scaling) not in peer.scalings:
        name = SCALING_NAMES[type(scaling)]
        differences.append(f"does not scale its rotary embedding by {name!r}")
    return differences


def _llama_like(name: str) -> Callable[[str, ModelConfig], Source]:
    """The names of Hugging Face's LLaMA, with the class's own name in front, and fused layers."""

    def source(canonical: str, model: ModelConfig) -> Source:
        packed = _fused_qkv(model)
        if model.fuse_attention_ffn:
            packed["mlp.gate_up_fused_proj"] = gate_up(model)
        return _renamed(named_source(canonical, Llama.names, packed), "model.", f"{name}.")

    return source


def _fused_qkv(model: ModelConfig) -> dict[str, Packed]:
    """Each key head follows its query heads, and its value head follows it."""
    if not model.fuse_attention_qkv:
        return {}
    return {"self_attn.qkv_proj": query_key_value(model, groups=model.num_key_value_heads)}


def _prefixed(prefix: str, paddle_prefix: str) -> Callable[[str, ModelConfig], Source]:
    """Hugging Face's names but for what they begin with."""

    def source(canonical: str, model: ModelConfig) -> Source:
        return _renamed(family_of(model).source(canonical, model), prefix, paddle_prefix)

    return source


def _renamed(source: Source, prefix: str, paddle_prefix: str) -> Source:
    if not source.name.startswith(prefix):
        return source
    return replace(source, name=paddle_prefix + source.name.removeprefix(prefix))


def _decoder_like(name: str, final_norm: str) -> Callable[[str, ModelConfig], Source]:
    """The names of PaddleNLP's GPT and OPT."""
    names = {
        "embedding": f"{name}.embeddings.word_embeddings",
        "positions": f"{name}.embeddings.position_embeddings",
        "layers": f"{name}.decoder.layers",
        "attention_norm": "norm1",
        "attention.query": "self_attn.q_proj",
        "attention.key": "self_attn.k_proj",
        "attention.value": "self_attn.v_proj",
        "attention.output": "self_attn.out_proj",
        "feed_forward_norm": "norm2",
        "feed_forward.up": "linear1",
        "feed_forward.down": "linear2",
        "norm": f"{name}.decoder.{final_norm}",
        "head": "lm_head",
    }
    return lambda canonical, model: named_source(canonical, names, _fused_qkv(model))


_TIED = {"tie_word_embeddings": True}
_LLAMA = _Peer(
    "LlamaForCausalLM",
    _llama_like("llama"),
    settled={"attention_bias": False, "mlp_bias": False},
    scalings={LinearScaling: "linear", DynamicScaling: "dynamic_ntk", Llama3Scaling: None},
)
_MODELS: dict[str, _Peer] = {
    "llama": _LLAMA,
    # Its LLaMA has linear biases too, but no head that is scaled.
    "baichuan": replace(
        _LLAMA,
        keys={"max_position_embeddings": "model_max_length"},
        settled=_LLAMA.settled | {"norm_head": False},
    ),
    "qwen": _Peer("QWenForCausalLM", _prefixed("transformer.", "qwen.")),
    "qwen2": _Peer("Qwen2ForCausalLM", _llama_like("qwen2")),
    "bloom": _Peer("BloomForCausalLM", _prefixed("transformer.", "bloom."), settled=_TIED),
    "gpt": _Peer(
        "GPTForCausalLM",
        _decoder_like("gpt", "norm"),
        {
            "hidden_size": "n_embd",
            "intermediate_size": "n_inner",
            "num_hidden_layers": "n_layer",
            "num_attention_heads": "n_head",
            "max_position_embeddings": "n_positions",
            "layer_norm_eps": "layer_norm_epsilon",
            "hidden_dropout_prob": "resid_pdrop",
            "attention_probs_dropout_prob": "attn_pdrop",
        },
        settled=_TIED | {"norm_eps": 1e-5},
    ),
    "opt": _Peer(
        "OPTForCausalLM",
        _decoder_like("opt", "final_layer_norm"),
        {
            "intermediate_size": "ffn_dim",
            "initializer_range": "init_std",
            "hidden_dropout_prob": "dropout",
            "attention_probs_dropout_prob": "attention_dropout",
        },
        settled=_TIED | {"attention_bias": True},
        head_copy="lm_head.decoder_weight",
    ),
    "chatglm": _Peer(
        "ChatGLMForCausalLM",
        _prefixed("transformer.", "chatglm.transformer."),
        {"num_hidden_layers": "num_layers"},
        settled=_TIED | {"is_gated": False},
    ),
    "chatglm_v2": _Peer(
        "ChatGLMv2ForCausalLM",
        _prefixed("transformer.", "chatglm_v2."),
        {
            "num_hidden_layers": "num_layers",
            "vocab_size": "padded_vocab_size",
            "max_sequence_length": "seq_length",
        },
    ),
}
