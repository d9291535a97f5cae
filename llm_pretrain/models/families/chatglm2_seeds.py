"""Published configs of ChatGLM2-6B and ChatGLM3-6B, by the names that users type."""

from __future__ import annotations

from typing import Any

_CHATGLM2 = {
    "model_type": "chatglm_v2",
    "padded_vocab_size": 65024,
    "hidden_size": 4096,
    "ffn_hidden_size": 13696,
    "num_layers": 28,
    "num_attention_heads": 32,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "kv_channels": 128,
    "seq_length": 32768,
    "layernorm_epsilon": 1e-5,
    "add_qkv_bias": True,
    "add_bias_linear": False,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

# The architecture at a size at which any layout can be tried on a laptop. Two key heads and the odd
# vocabulary are not divided by a tensor-parallel degree of four, nor five layers by any stages.
_TINY = {
    "padded_vocab_size": 130,
    "hidden_size": 64,
    "ffn_hidden_size": 128,
    "num_layers": 5,
    "num_attention_heads": 8,
    "kv_channels": 8,
    "seq_length": 64,
    "initializer_range": 0.05,
}

SEEDS: dict[str, dict[str, Any]] = {
    "THUDM/chatglm2-6b": _CHATGLM2,
    # The third has the second's architecture.
    "THUDM/chatglm3-6b": _CHATGLM2 | {"seq_length": 8192},
    "THUDM/chatglm3-6b-base": _CHATGLM2,
    "tiny/chatglm2": _CHATGLM2 | _TINY,
}

CAPABILITIES = {"ChatGLM2": "tiny/chatglm2"}
"""Models of the capability table, each with the seed of its architecture that the tests run."""
