"""The models that are compared with those of transformers: random ones, and known traps.

A trap is a setting that random draws seldom meet, or a size with which a sample passes several
blocks of the operators.
"""

from __future__ import annotations

from typing import Any

from tests.peers import random_configs
from tests.peers.comparison import Case
from tests.peers.random_configs import random_cases

FUSED = {"fuse_attention_qkv": True, "fuse_attention_ffn": True}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA_3_1 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LLAMA = {
    "model_type": "llama",
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
GPT2 = {
    "model_type": "gpt2",
    "vocab_size": 99,
    "n_embd": 36,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 300,
    "embd_pdrop": 0.0,
    "resid_pdrop": 0.0,
    "attn_pdrop": 0.0,
}
OPT = {
    "model_type": "opt",
    "vocab_size": 99,
    "hidden_size": 36,
    "ffn_dim": 50,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 300,
    "dropout": 0.0,
    # Theirs keeps the row of a padding token from learning; here a sample has no padding.
    "pad_token_id": None,
}
BLOOM = {"model_type": "bloom", "vocab_size": 99, "hidden_size": 35, "n_layer": 2, "n_head": 7}


def llama(length: int = 24, own: dict[str, Any] | None = None, **published: Any) -> Case:
    return Case({**LLAMA, **published}, own or {}, length)


def qwen(family: str, length: int = 24, **published: Any) -> Case:
    return Case({**LLAMA, "num_key_value_heads": 2, "model_type": family, **published}, {}, length)


CASES: dict[str, dict[str, Case]] = {
    "llama": {
        "grouped-tied-fused": llama(own=FUSED, num_key_value_heads=2, tie_word_embeddings=True),
        "several-blocks": llama(
            300, FUSED, num_key_value_heads=2, rope_theta=500000.0, rope_scaling=LLAMA_3_1
        ),
        "no-scaling-named": llama(),
        "oldest-spelling": llama(rope_scaling={"type": "linear", "factor": 2.0}),
        "dynamic-beyond": llama(
            rope_scaling={"type": "dynamic", "factor": 2.0}, max_position_embeddings=16
        ),
        "yarn-temperature": llama(
            rope_parameters={
                **YARN,
                "mscale": 0.7,
                "mscale_all_dim": 1.3,
                "truncate": False,
                "beta_fast": 16.0,
                "beta_slow": 2.0,
                "rope_theta": 5000.0,
            }
        ),
        **random_cases(random_configs.llama, range(10)),
    },
    "qwen2": {
        "qwen2-several-blocks": qwen("qwen2", 300, rms_norm_eps=1e-5, sliding_window=8),
        "qwen2.5-yarn": qwen("qwen2", 33, rope_scaling=YARN),
        "qwen3-biases": qwen("qwen3", 300, attention_bias=True, head_dim=8),
        **random_cases(random_configs.qwen2, range(10)),
    },
    "gpt2": {
        "several-blocks": Case(GPT2, length=300),
        # transformers has this under GPT-2's name and keys alone; what is saved has them.
        "GPT-3": Case(
            GPT2,
            own={
                "model_type": "gpt",
                "hidden_dropout_prob": 0.0,
                "attention_probs_dropout_prob": 0.0,
            },
        ),
        **random_cases(random_configs.gpt2, range(10)),
    },
    "opt": {
        "several-blocks": Case(OPT, length=300),
        **random_cases(random_configs.opt, range(10)),
    },
    "bloom": {
        "several-blocks": Case(BLOOM, length=300),
        **random_cases(random_configs.bloom, range(10)),
    },
}
