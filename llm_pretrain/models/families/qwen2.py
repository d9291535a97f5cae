"""Qwen2, Qwen2.5 and Qwen3, dense: what their published configs and weights are called.

Yang et al., arXiv:2407.10671, arXiv:2412.15115 and arXiv:2505.09388. LLaMA's architecture; Qwen2
has biases on queries, keys and values, and Qwen3 norms of every query and key head instead.
"""

from __future__ import annotations

from llm_pretrain.models.families.family import Values
from llm_pretrain.models.families.fields import Fields
from llm_pretrain.models.families.llama import Llama


class Qwen2(Llama):
    """Without "use_sliding_window" the other keys of the window have no effect."""

    model_types = ("qwen2",)
    architecture = "Qwen2ForCausalLM"
    keys = tuple(row for row in Llama.keys if row.field not in ("mlp_bias", "attention_bias"))
    fixed = {"attention_bias": True, "attention_output_bias": False}
    defaults = {"max_position_embeddings": 32768}
    written = Llama.written | {"use_sliding_window": False}
    supported = Llama.supported | {
        "use_sliding_window": (False, None),
        "use_mrope": (False, None),
        # PaddleNLP takes no notice of it here.
        "rope_scaling_type": (None,),
        "alibi": (False, None),
        "mlp_bias": (False, None),
    }

    def complete(self, values: Values, fields: Fields) -> None:
        super().complete(values, fields)
        if "sliding_attention" in (fields.values.get("layer_types") or ()):
            fields.problem("layer_types", "sliding windows are not supported")


class Qwen3(Qwen2):
    """Heads may be wider than hidden_size / num_attention_heads."""

    model_types = ("qwen3",)
    architecture = "Qwen3ForCausalLM"
    keys = tuple(row for row in Llama.keys if row.field != "mlp_bias")
    fixed = {"query_key_norm": True}
    defaults = Qwen2.defaults | {"head_dim": 128}
    names = Llama.names | {
        "attention.query_norm": "self_attn.q_norm",
        "attention.key_norm": "self_attn.k_norm",
    }
