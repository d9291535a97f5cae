"""Published configs of ChatGLM-6B and GLM-130B, by the names that users type.

GLM-130B's are of the table of hyperparameters in arXiv:2210.02414, its tokens those of icetk.
"""

from __future__ import annotations

from typing import Any

_CHATGLM = {
    "model_type": "chatglm",
    "vocab_size": 130528,
    "hidden_size": 4096,
    "inner_hidden_size": 16384,
    "num_layers": 28,
    "num_attention_heads": 32,
    "position_encoding_2d": True,
    "max_sequence_length": 2048,
    "layernorm_epsilon": 1e-5,
    "mask_token_id": 130000,
    "gmask_token_id": 130001,
    "bos_token_id": 130004,
    "eos_token_id": 130005,
    "pad_token_id": 3,
}
_GLM_130B = {
    "model_type": "chatglm",
    "vocab_size": 150528,
    "hidden_size": 12288,
    "inner_hidden_size": 32768,
    "num_layers": 70,
    "num_attention_heads": 96,
    "activation": "geglu",
    "position_encoding_2d": False,
    "max_sequence_length": 2048,
    "layernorm_epsilon": 1e-5,
    "hidden_dropout": 0.1,
    "attention_dropout": 0.1,
    "initializer_range": 0.0052,
    "shrink_embedding_gradient_alpha": 0.1,
    "gpt_prob": 0.7,
    "mask_token_id": 150000,
    "gmask_token_id": 150001,
    "bos_token_id": 150004,
    "eos_token_id": 150005,
}

# The architectures at a size at which any layout can be tried on a laptop. The odd vocabulary is
# not divided by a tensor-parallel degree of four, nor five layers by any number of stages. What
# marks blanks stands behind the demo's 512 tokens, so that no text has it.
_TINY = {
    "vocab_size": 518,
    "hidden_size": 64,
    "inner_hidden_size": 128,
    "num_layers": 5,
    "num_attention_heads": 8,
    "max_sequence_length": 64,
    "initializer_range": 0.05,
    "mask_token_id": 514,
    "gmask_token_id": 515,
    "bos_token_id": 516,
    "eos_token_id": 517,
}

SEEDS: dict[str, dict[str, Any]] = {
    "THUDM/chatglm-6b": _CHATGLM,
    "THUDM/chatglm-6b-v1.1": _CHATGLM,
    "THUDM/glm-130b": _GLM_130B,
    "tiny/chatglm": _CHATGLM | _TINY,
    # Its embedding, which is also its head, learns from a tenth of the gradient.
    "tiny/glm-130b": _GLM_130B | _TINY | {"initializer_range": 0.1},
}

CAPABILITIES = {"ChatGLM-6B": "tiny/chatglm", "GLM 130B": "tiny/glm-130b"}
"""Models of the capability table, each with the seed of its architecture that the tests run."""
