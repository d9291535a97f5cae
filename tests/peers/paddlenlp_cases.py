"""The models that are compared with those of PaddleNLP: random ones, and known traps.

A trap is a setting that random draws seldom meet, or a size with which a sample passes several
blocks of the operators.
"""

from __future__ import annotations

from typing import Any

from llm_pretrain.checkpoint.weight_files import PADDLENLP
from llm_pretrain.models.families import FAMILIES, paddlenlp
from tests.peers import random_configs
from tests.peers.comparison import Case
from tests.peers.random_configs import random_cases

FUSED = {"fuse_attention_qkv": True, "fuse_attention_ffn": True}
SMALL = {
    "vocab_size": 99,
    "hidden_size": 40,
    "intermediate_size": 36,
    "num_hidden_layers": 2,
    "num_attention_heads": 5,
}
GPT = {
    **SMALL,
    "model_type": "gpt",
    "max_position_embeddings": 300,
    "hidden_activation": "gelu",
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
LLAMA = {
    **SMALL,
    "model_type": "llama",
    "max_position_embeddings": 32,
    "rms_norm_eps": 1e-6,
}
LLAMA_3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
QWEN = {**SMALL, "model_type": "qwen", "kv_channels": 8, "seq_length": 16}
BAICHUAN = {**SMALL, "model_type": "baichuan", "rms_norm_eps": 1e-6}
CHATGLM = {
    "model_type": "chatglm",
    "vocab_size": 99,
    "hidden_size": 48,
    "inner_hidden_size": 52,
    "num_layers": 2,
    "num_attention_heads": 3,
    "max_sequence_length": 200,
    "mask_token_id": 95,
    "gmask_token_id": 96,
    "bos_token_id": 97,
    "eos_token_id": 98,
}
CHATGLM2 = {
    "model_type": "chatglm_v2",
    "padded_vocab_size": 99,
    "hidden_size": 48,
    "ffn_hidden_size": 52,
    "num_layers": 3,
    "num_attention_heads": 6,
    "kv_channels": 8,
    "multi_query_group_num": 1,
    "seq_length": 200,
    "add_qkv_bias": True,
}


def scaled(kind: str, **other: Any) -> Case:
    """A LLaMA with PaddleNLP's keys, and samples beyond its positions."""
    keys = {"rope_scaling_type": kind, "rope_scaling_factor": 4.0}
    return Case({**LLAMA, **keys, **other}, length=50)


def written(length: int, **scaling: Any) -> Case:
    """The config that is written for PaddleNLP of a LLaMA with Hugging Face's keys."""
    config = FAMILIES["llama"].read_config({**LLAMA, "rope_scaling": scaling}, "config.json")
    return Case(paddlenlp.write_config(config), length=length)


def qwen(length: int, own: dict[str, Any] | None = None, **changes: Any) -> Case:
    return Case({**QWEN, **changes}, own or {}, length)


CASES: dict[str, dict[str, Case]] = {
    "gpt": {
        "several-blocks": Case(GPT, length=300),
        **random_cases(random_configs.gpt, range(10)),
    },
    "llama": {
        "linear-beyond": scaled("linear"),
        "ntk-beyond": scaled("ntk", rope_theta=500.0),
        "dynamic-beyond": scaled("dynamic_ntk"),
        # An object of the type llama3 counts before the two keys.
        "llama3": Case({**scaled("linear").published, "rope_scaling": LLAMA_3}),
        "written-linear": written(50, type="linear", factor=2.0),
        "written-dynamic": written(50, type="dynamic", factor=2.0),
        "written-llama3": written(24, **LLAMA_3),
        **random_cases(random_configs.paddlenlp_llama, range(10)),
    },
    "qwen": {
        "several-blocks": qwen(300, seq_length=300),
        "far-beyond": qwen(129, FUSED),
        "larger-base": qwen(33, use_logn_attn=False),
        "scaled-queries": qwen(33, use_dynamic_ntk=False),
        "neither": qwen(33, use_dynamic_ntk=False, use_logn_attn=False),
        **random_cases(random_configs.qwen, range(10)),
    },
    "baichuan": {
        "7B-several-blocks": Case(
            {**BAICHUAN, "max_position_embeddings": 512}, FUSED, length=300, format=PADDLENLP
        ),
        # Theirs is 1e-5 off float64, ours 1e-6: it adds a key's place, not its distance.
        "13B-several-blocks": Case(
            {**BAICHUAN, "model_max_length": 512}, length=300, tolerance=5e-5, format=PADDLENLP
        ),
        **random_cases(random_configs.baichuan, range(10)),
    },
    "chatglm": {
        "several-blocks": Case({**CHATGLM, "gpt_prob": 0.5}, FUSED, length=161, format=PADDLENLP),
        "shortest": Case(CHATGLM, length=16, format=PADDLENLP),
        **random_cases(random_configs.chatglm, range(10)),
    },
    "chatglm2": {
        "several-blocks": Case(CHATGLM2, FUSED, length=161, format=PADDLENLP),
        **random_cases(random_configs.chatglm2, range(10)),
    },
}
