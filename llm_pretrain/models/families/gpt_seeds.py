"""Published configs of GPT-2 and GPT-3, by the names that users type; no network is needed.

GPT-2 under the names of transformers and of PaddleNLP; GPT-3 is PaddleNLP's.
"""

from __future__ import annotations

from typing import Any


def _gpt(hidden: int, layers: int, heads: int, vocabulary: int, **other: Any) -> dict[str, Any]:
    return {
        "model_type": "gpt",
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": 4 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": 1024,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "eos_token_id": 50256,
        **other,
    }


def _gpt2(hidden: int, layers: int, heads: int, **other: Any) -> dict[str, Any]:
    return {
        "model_type": "gpt2",
        "vocab_size": 50257,
        "n_embd": hidden,
        "n_layer": layers,
        "n_head": heads,
        "n_positions": 1024,
        "embd_pdrop": 0.1,
        "resid_pdrop": 0.1,
        "attn_pdrop": 0.1,
        "bos_token_id": 50256,
        "eos_token_id": 50256,
        **other,
    }


_CPM = {"bos_token_id": 0, "eos_token_id": 7, "pad_token_id": 0}

SEEDS: dict[str, dict[str, Any]] = {
    "gpt3-1.3B-en": _gpt(2048, 24, 16, 50304),
    "gpt3-6.7B-en": _gpt(4096, 32, 32, 50304),
    # PaddleNLP has published this one with 40 heads (as the paper) and, earlier, with 128.
    "gpt3-13B-en": _gpt(5120, 40, 40, 50304),
    "gpt3-13B-en-128-heads": _gpt(5120, 40, 128, 50304),
    "gpt3-89B-en": _gpt(12288, 48, 96, 51200),
    "gpt3-175B-en": _gpt(12288, 96, 96, 51200),
    "gpt2-small-en": _gpt(1024, 4, 4, 50304),
    "gpt2-en": _gpt(768, 12, 12, 50257),
    "gpt2-medium-en": _gpt(1024, 24, 16, 50304),
    "gpt2-large-en": _gpt(1280, 36, 20, 50257),
    "gpt2-xl-en": _gpt(1600, 48, 25, 50257),
    "gpt-cpm-small-cn-distill": _gpt(768, 12, 12, 30000, **_CPM),
    "gpt-cpm-large-cn": _gpt(2560, 32, 32, 30000, **_CPM),
}
for _name, _config in {
    "gpt2": _gpt2(768, 12, 12),
    "gpt2-medium": _gpt2(1024, 24, 16),
    "gpt2-large": _gpt2(1280, 36, 20),
    "gpt2-xl": _gpt2(1600, 48, 25),
}.items():
    SEEDS |= {_name: _config, f"openai-community/{_name}": _config}

# The architecture at a size at which any layout can be tried on a laptop.
SEEDS |= {
    "tiny/gpt3": _gpt(64, 5, 8, 130)
    | {
        "intermediate_size": 128,
        "max_position_embeddings": 64,
        "initializer_range": 0.05,
        "eos_token_id": None,
    },
    "tiny/gpt2": _gpt2(64, 5, 8)
    | {
        "vocab_size": 130,
        "n_inner": 128,
        "n_positions": 64,
        "initializer_range": 0.05,
        "bos_token_id": None,
        "eos_token_id": None,
    },
}

CAPABILITIES = {"GPT3": "tiny/gpt3", "GPT-2": "tiny/gpt2"}
"""Models of the capability table, each with the seed of its architecture that the tests run."""
