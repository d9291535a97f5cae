"""Self-attention with grouped queries and rotary positions.

Shapes: B batch, S sequence, H hidden, N query heads, K key and value heads, D head size.
"""

from __future__ import annotations

from paddle import Tensor, nn

from llm_pretrain import ops
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.models.position import rotary_tables
from llm_pretrain.parallel.tensor import ColumnParallelLinear, RowParallelLinear


class Attention(nn.Layer):
    """Causal self-attention; groups of query heads share keys and values (arXiv:2305.13245)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        query = config.num_attention_heads * config.head_dim
        key_value = config.num_key_value_heads * config.head_dim
        std = config.initializer_range
        self.query_key_value = ColumnParallelLinear(
            config.hidden_size,
            {"query": query, "key": key_value, "value": key_value},
            bias=config.attention_bias,
            fused=config.fuse_attention_qkv,
            std=std,
        )
        self.output = RowParallelLinear(
            query, config.hidden_size, "output", bias=config.attention_bias, std=std
        )

    def forward(self, x_BSH: Tensor) -> Tensor:
        B, S, _ = x_BSH.shape
        q_BSND, k_BSKD, v_BSKD = (
            y.reshape([B, S, -1, self.config.head_dim]) for y in self.query_key_value(x_BSH)
        )
        cos_SD, sin_SD = rotary_tables(self.config, S)
        q_BSND, k_BSKD = ops.rotary(q_BSND, k_BSKD, cos_SD, sin_SD)
        y_BSND = self.core(q_BSND, k_BSKD, v_BSKD)
        return self.output(y_BSND.reshape([B, S, -1]))

    def core(self, q_BSND: Tensor, k_BSKD: Tensor, v_BSKD: Tensor) -> Tensor:
        """softmax(Q Kᵀ) V: what "core_attn" recomputes in the backward pass."""
        return ops.attention(
            q_BSND,
            k_BSKD,
            v_BSKD,
            causal=True,
            dropout=self.config.attention_dropout,
            training=self.training,
        )
