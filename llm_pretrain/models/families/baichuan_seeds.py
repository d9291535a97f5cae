"""Published configs of Baichuan 1 and 2, by the names that users type; no network is needed.

The sizes are those of the published config.json files.
"""

from __future__ import annotations

from typing import Any


def _sizes(hidden: int, feed_forward: int, layers: int, heads: int, **other: Any) -> dict[str, Any]:
    return {
        "model_type": "baichuan",
        "vocab_size": 64000,
        "hidden_size": hidden,
        "intermediate_size": feed_forward,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "rms_norm_eps": 1e-6,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        **other,
    }


_7B = _sizes(4096, 11008, 32, 32, max_position_embeddings=4096)
_13B = _sizes(5120, 13696, 40, 40, model_max_length=4096)
_BAICHUAN_2 = {"vocab_size": 125696, "model_max_length": 4096, "z_loss_weight": 0}

SEEDS: dict[str, dict[str, Any]] = {
    "baichuan-inc/Baichuan-7B": _7B,
    "baichuan-inc/Baichuan-13B-Base": _13B,
    "baichuan-inc/Baichuan-13B-Chat": _13B,
    "baichuan-inc/Baichuan2-7B-Base": _7B | _BAICHUAN_2,
    "baichuan-inc/Baichuan2-7B-Chat": _7B | _BAICHUAN_2,
    "baichuan-inc/Baichuan2-13B-Base": _13B | _BAICHUAN_2,
    "baichuan-inc/Baichuan2-13B-Chat": _13B | _BAICHUAN_2,
}

# The architectures at a size at which any layout can be tried on a laptop.
_TINY = _sizes(64, 128, 5, 8, vocab_size=130, initializer_range=0.05)
SEEDS |= {
    "tiny/baichuan-7b": _TINY | {"max_position_embeddings": 64},
    "tiny/baichuan-13b": _TINY | {"model_max_length": 64},
    "tiny/baichuan2-7b": _TINY | {"max_position_embeddings": 64, "z_loss_weight": 0},
}

CAPABILITIES = {"BaiChuan-13B": "tiny/baichuan-13b", "Baichuan2-7B": "tiny/baichuan2-7b"}
"""Models of the capability table, each with the seed of its architecture that the tests run."""
