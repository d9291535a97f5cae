"""Published configs of Qwen1.5, Qwen2, Qwen2.5 and Qwen3, by the names that users type.

The sizes are those of the published config.json files.
"""

from __future__ import annotations

from typing import Any


def _sizes(
    hidden: int, feed_forward: int, layers: int, heads: int, key_value_heads: int, **other: Any
) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "intermediate_size": feed_forward,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_value_heads,
        "rms_norm_eps": 1e-6,
        **other,
    }


_TOKENS = {"rope_theta": 1000000.0, "bos_token_id": 151643, "eos_token_id": 151643}
_CHAT_END = {"eos_token_id": 151645}
_TIED = {"tie_word_embeddings": True}

_QWEN2 = {"model_type": "qwen2", "vocab_size": 152064, **_TOKENS}
_SHORT, _LONG = {"max_position_embeddings": 32768}, {"max_position_embeddings": 131072}
# The vocabulary of the small ones is padded less.
_SMALL = {**_TIED, "vocab_size": 151936}
_0_5B = _QWEN2 | _sizes(896, 4864, 24, 14, 2) | _SMALL
_1_5B = _QWEN2 | _sizes(1536, 8960, 28, 12, 2) | _SMALL
_3B = _QWEN2 | _sizes(2048, 11008, 36, 16, 2) | _SMALL
_7B = _QWEN2 | _sizes(3584, 18944, 28, 28, 4)
_14B = _QWEN2 | _sizes(5120, 13824, 48, 40, 8)
_32B = _QWEN2 | _sizes(5120, 27648, 64, 40, 8)
_72B = _QWEN2 | _sizes(8192, 29568, 80, 64, 8)
# The large base models have another epsilon than those trained on from them.
_LARGE_BASE = {**_LONG, "rms_norm_eps": 1e-5}

SEEDS: dict[str, dict[str, Any]] = {
    "Qwen/Qwen2-0.5B": _0_5B | _LONG,
    "Qwen/Qwen2-1.5B": _1_5B | _LONG,
    "Qwen/Qwen2-7B": _7B | _LONG,
    "Qwen/Qwen2-72B": _72B | _LARGE_BASE,
    "Qwen/Qwen2.5-0.5B": _0_5B | _SHORT,
    "Qwen/Qwen2.5-1.5B": _1_5B | _LONG,
    "Qwen/Qwen2.5-3B": _3B | _SHORT,
    "Qwen/Qwen2.5-7B": _7B | _LONG,
    "Qwen/Qwen2.5-14B": _14B | _LARGE_BASE,
    "Qwen/Qwen2.5-32B": _32B | _LARGE_BASE,
    "Qwen/Qwen2.5-72B": _72B | _LARGE_BASE,
}
SEEDS |= {
    f"{name}-Instruct": published | _SHORT | _CHAT_END | {"rms_norm_eps": 1e-6}
    for name, published in SEEDS.items()
}

# Qwen1.5: two of the large ones have fewer key heads than heads.
for _name, _shape in {
    "0.5B": _sizes(1024, 2816, 24, 16, 16) | _SMALL,
    "1.8B": _sizes(2048, 5504, 24, 16, 16, vocab_size=151936),
    "7B": _sizes(4096, 11008, 32, 32, 32, vocab_size=151936),
    "14B": _sizes(5120, 13696, 40, 40, 40),
    "32B": _sizes(5120, 27392, 64, 40, 8),
    "72B": _sizes(8192, 24576, 80, 64, 64),
    "110B": _sizes(8192, 49152, 80, 64, 8),
}.items():
    SEEDS[f"Qwen/Qwen1.5-{_name}"] = _QWEN2 | _shape | _SHORT
    SEEDS[f"Qwen/Qwen1.5-{_name}-Chat"] = _QWEN2 | _shape | _SHORT | _CHAT_END
# Trained on from Qwen2.5: the code of the small ones, mathematics, and what DeepSeek-R1 says.
_MATHS = {"rope_theta": 10000.0, "max_position_embeddings": 4096}
for _name, _shape in {"1.5B": _1_5B, "7B": _7B}.items():
    SEEDS[f"Qwen/Qwen2.5-Coder-{_name}"] = _shape | _SHORT
    SEEDS[f"Qwen/Qwen2.5-Coder-{_name}-Instruct"] = _shape | _SHORT | _CHAT_END
    SEEDS[f"Qwen/Qwen2.5-Math-{_name}"] = _shape | _MATHS
    SEEDS[f"Qwen/Qwen2.5-Math-{_name}-Instruct"] = _shape | _MATHS | _CHAT_END
SEEDS |= {
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": _1_5B
    | _MATHS
    | _LONG
    | {"tie_word_embeddings": False},
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B": _7B | _MATHS | _LONG,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B": _14B | _LARGE_BASE,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B": _32B | _LARGE_BASE,
}

_QWEN3 = {"model_type": "qwen3", "vocab_size": 151936, "head_dim": 128, **_TOKENS}
for _name, _shape in {
    "0.6B": _sizes(1024, 3072, 28, 16, 8, **_TIED),
    "1.7B": _sizes(2048, 6144, 28, 16, 8, **_TIED),
    "4B": _sizes(2560, 9728, 36, 32, 8, **_TIED),
    "8B": _sizes(4096, 12288, 36, 32, 8),
    "14B": _sizes(5120, 17408, 40, 40, 8),
}.items():
    SEEDS[f"Qwen/Qwen3-{_name}-Base"] = _QWEN3 | _shape | _SHORT
    SEEDS[f"Qwen/Qwen3-{_name}"] = _QWEN3 | _shape | _CHAT_END | {"max_position_embeddings": 40960}
# The largest has no published base.
SEEDS["Qwen/Qwen3-32B"] = (
    _QWEN3 | _sizes(5120, 25600, 64, 64, 8) | _CHAT_END | {"max_position_embeddings": 40960}
)

# See llama_seeds.py. Of three key heads, two and four tensor-parallel ranks use some together, each
# with another number of its query heads. Heads of Qwen3 are wider than hidden_size /
# num_attention_heads.
_TINY = {"vocab_size": 130, "max_position_embeddings": 64, "initializer_range": 0.05}
SEEDS |= {
    "tiny/qwen2": {"model_type": "qwen2", **_TINY} | _sizes(96, 128, 5, 12, 3, **_TIED),
    "tiny/qwen3": {"model_type": "qwen3", "head_dim": 12, **_TINY} | _sizes(96, 128, 5, 12, 3),
}

CAPABILITIES = {"Qwen2.5": "tiny/qwen2", "Qwen3": "tiny/qwen3"}
