"""Published configs of the LLaMA kind, by the names that users type; no network is needed.

The sizes are those of the published config.json files. The padding token is left out: nothing in
pretraining reads it.
"""

from __future__ import annotations

from typing import Any


def _sizes(
    hidden: int, feed_forward: int, layers: int, heads: int, key_value_heads: int, **other: Any
) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": feed_forward,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_value_heads,
        **other,
    }


_LLAMA_1 = {
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_LLAMA_2 = {**_LLAMA_1, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5}
_LLAMA_3 = {
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "bos_token_id": 128000,
    "eos_token_id": 128001,
}


def _llama_3_1(factor: float) -> dict[str, Any]:
    scaling = {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    return {**_LLAMA_3, "max_position_embeddings": 131072, "rope_scaling": scaling}


_7B = _sizes(4096, 11008, 32, 32, 32)
_13B = _sizes(5120, 13824, 40, 40, 40)
_33B = _sizes(6656, 17920, 60, 52, 52)
_65B = _sizes(8192, 22016, 80, 64, 64)
_70B = _sizes(8192, 28672, 80, 64, 8)
_8B = _sizes(4096, 14336, 32, 32, 8)
_405B = _sizes(16384, 53248, 126, 128, 8)
_1B = _sizes(2048, 8192, 16, 32, 8, head_dim=64, tie_word_embeddings=True)
_3B = _sizes(3072, 8192, 28, 24, 8, head_dim=128, tie_word_embeddings=True)
_CHAT_END = {"eos_token_id": 128009}
_CHAT_ENDS = {"eos_token_id": [128001, 128008, 128009]}
# The rows that Linly added to LLaMA's 32000 are 8076 by its announcement. Its config.json could not
# be compared here; a directory with the weights brings its own and wins.
_LINLY = {**_LLAMA_2, "vocab_size": 40076}
_SCI_13B = _13B | _LLAMA_1 | {"initializer_range": 0.002}

SEEDS: dict[str, dict[str, Any]] = {
    "facebook/llama-7b": _7B | _LLAMA_1,
    "facebook/llama-13b": _13B | _LLAMA_1,
    "facebook/llama-30b": _33B | _LLAMA_1,
    "facebook/llama-33b": _33B | _LLAMA_1,
    "facebook/llama-65b": _65B | _LLAMA_1 | {"rms_norm_eps": 1e-5},
    "idea-ccnl/ziya-llama-13b-v1": _13B | _LLAMA_1 | {"vocab_size": 39424},
    # Fine-tuned from Llama 2 with its own vocabulary (Atom, not these, extends it).
    "FlagAlpha/Llama2-Chinese-7b-Chat": _7B | _LLAMA_2,
    "FlagAlpha/Llama2-Chinese-13b-Chat": _13B | _LLAMA_2,
    "linly-ai/chinese-llama-2-7b": _7B | _LINLY,
    "linly-ai/chinese-llama-2-13b": _13B | _LINLY,
    "meta-llama/Meta-Llama-3-8B": _8B | _LLAMA_3,
    "meta-llama/Meta-Llama-3-8B-Instruct": _8B | _LLAMA_3 | _CHAT_END,
    "meta-llama/Meta-Llama-3-70B": _70B | _LLAMA_3,
    "meta-llama/Meta-Llama-3-70B-Instruct": _70B | _LLAMA_3 | _CHAT_END,
    "meta-llama/Llama-3.2-1B": _1B | _llama_3_1(32.0),
    "meta-llama/Llama-3.2-1B-Instruct": _1B | _llama_3_1(32.0) | _CHAT_ENDS,
    "meta-llama/Llama-3.2-3B": _3B | _llama_3_1(32.0),
    "meta-llama/Llama-3.2-3B-Instruct": _3B | _llama_3_1(32.0) | _CHAT_ENDS,
    "meta-llama/Llama-3.3-70B-Instruct": _70B | _llama_3_1(8.0) | _CHAT_ENDS,
    "meta-llama/Llama-Guard-3-8B": _8B | _llama_3_1(8.0) | _CHAT_ENDS,
    "deepseek-ai/DeepSeek-R1-Distill-Llama-8B": _8B | _llama_3_1(8.0),
    "deepseek-ai/DeepSeek-R1-Distill-Llama-70B": _70B | _llama_3_1(8.0),
    # The 13B model of PaddleNLP's accelerator benchmarks.
    "__internal_testing__/sci-benchmark-llama-13b-init0501": _SCI_13B,
    "__internal_testing__/sci-benchmark-llama-13b-5k": _SCI_13B,
    "__internal_testing__/micro-random-llama": _sizes(64, 1000, 1, 8, 8) | _LLAMA_1,
    "__internal_testing__/tiny-random-llama": _sizes(768, 11008, 2, 8, 8) | _LLAMA_1,
}
for _size, _shape in (("7b", _7B), ("13b", _13B), ("70b", _70B)):
    for _kind in ("", "-chat", "-hf", "-chat-hf"):
        SEEDS[f"meta-llama/Llama-2-{_size}{_kind}"] = _shape | _LLAMA_2
for _size, _shape in (("8B", _8B), ("70B", _70B), ("405B", _405B)):
    for _name in (f"meta-llama/Meta-Llama-3.1-{_size}", f"meta-llama/Llama-3.1-{_size}"):
        SEEDS[_name] = _shape | _llama_3_1(8.0)
        SEEDS[f"{_name}-Instruct"] = _shape | _llama_3_1(8.0) | _CHAT_ENDS

# The architectures at a size at which any layout can be tried on a laptop. Five layers make unequal
# stages; two key heads and the odd vocabulary are not divided by a tensor-parallel degree of four.
_TINY = {"vocab_size": 130, "max_position_embeddings": 64, "rms_norm_eps": 1e-6}
SEEDS |= {
    "tiny/llama": _sizes(64, 128, 5, 8, 8, **_TINY, initializer_range=0.05),
    "tiny/llama2-70b": _sizes(
        64, 128, 5, 8, 2, **_TINY, initializer_range=0.05, attention_dropout=0.1
    ),
}

CAPABILITIES = {"LLaMA-65B": "tiny/llama", "LLaMA2-70B": "tiny/llama2-70b"}
"""Models of the capability table, each with the seed of its architecture that the tests run."""
