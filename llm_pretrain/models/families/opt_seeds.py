"""Published configs of OPT, by the names that users type; no network is needed.

The sizes are those of the published config.json files (arXiv:2205.01068, table 1). OPT-350m is
left out: its blocks are other ones.
"""

from __future__ import annotations

from typing import Any


def _sizes(hidden: int, layers: int, heads: int, **other: Any) -> dict[str, Any]:
    return {
        "model_type": "opt",
        "vocab_size": 50272,
        "hidden_size": hidden,
        "ffn_dim": 4 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": 2048,
        "dropout": 0.1,
        "bos_token_id": 2,
        "eos_token_id": 2,
        "pad_token_id": 1,
        **other,
    }


_1_3B = _sizes(2048, 24, 32)
_30B = _sizes(7168, 48, 56)

SEEDS: dict[str, dict[str, Any]] = {
    "facebook/opt-125m": _sizes(768, 12, 12),
    "facebook/opt-1.3b": _1_3B,
    "facebook/opt-2.7b": _sizes(2560, 32, 32),
    "facebook/opt-6.7b": _sizes(4096, 32, 32),
    "facebook/opt-13b": _sizes(5120, 40, 40),
    "facebook/opt-30b": _30B,
    "facebook/opt-66b": _sizes(9216, 64, 72),
    "facebook/opt-iml-1.3b": _1_3B,
    "facebook/opt-iml-max-1.3b": _1_3B,
    "facebook/opt-iml-30b": _30B,
    "facebook/opt-iml-max-30b": _30B,
    # The architecture at a size at which any layout can be tried on a laptop. It has few ReLUs: one
    # that is zero but for rounding may be on in one layout and off in another, and then their
    # losses part.
    "tiny/opt": _sizes(64, 5, 8)
    | {
        "vocab_size": 130,
        "ffn_dim": 32,
        "max_position_embeddings": 64,
        "init_std": 0.15,
    },
}

CAPABILITIES = {"OPT 66B": "tiny/opt"}
"""Models of the capability table, each with the seed of its architecture that the tests run."""
