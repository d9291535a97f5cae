"""Published configs of Qwen's first generation, by the names that users type.

The sizes are those of the published config.json files; "seq_length" and "max_position_embeddings"
of the 7B are those of the release that was trained on 8192 tokens.
"""

from __future__ import annotations

from typing import Any


def _sizes(hidden: int, feed_forward: int, layers: int, heads: int, **other: Any) -> dict[str, Any]:
    return {
        "model_type": "qwen",
        "hidden_size": hidden,
        "intermediate_size": feed_forward,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "layer_norm_epsilon": 1e-6,
        "rotary_emb_base": 10000,
        "use_dynamic_ntk": True,
        "use_logn_attn": True,
        **other,
    }


_7B = {
    **_sizes(4096, 22016, 32, 32, vocab_size=151936, eos_token_id=151643),
    "max_position_embeddings": 32768,
    "seq_length": 8192,
}
_14B = {
    **_sizes(5120, 27392, 40, 40, vocab_size=152064, eos_token_id=151643),
    "max_position_embeddings": 8192,
    "seq_length": 2048,
}

# Trained on 32768 tokens, it needs no help with longer samples.
_72B = {
    **_sizes(8192, 49152, 80, 64, vocab_size=152064, eos_token_id=151643),
    "rotary_emb_base": 1000000,
    "use_dynamic_ntk": False,
    "use_logn_attn": False,
    "max_position_embeddings": 32768,
    "seq_length": 32768,
}

SEEDS: dict[str, dict[str, Any]] = {}
for _size, _published in (("7b", _7B), ("14b", _14B), ("72b", _72B)):
    for _kind in ("", "-chat"):
        # PaddleNLP's names, and those of the Hugging Face hub.
        SEEDS[f"qwen/qwen-{_size}{_kind}"] = _published
        SEEDS[f"Qwen/Qwen-{_size.upper()}{_kind.title()}"] = _published

# See llama_seeds.py.
_TINY = {
    "vocab_size": 130,
    "max_position_embeddings": 64,
    "seq_length": 64,
    "initializer_range": 0.05,
}
SEEDS |= {
    "tiny/qwen-7b": _sizes(64, 256, 5, 8, **_TINY),
    "tiny/qwen-14b": _sizes(64, 256, 5, 8, **_TINY, emb_dropout_prob=0.1, attn_dropout_prob=0.1),
}

CAPABILITIES = {"Qwen-7B": "tiny/qwen-7b", "Qwen-14B": "tiny/qwen-14b"}
