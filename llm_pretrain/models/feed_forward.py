"""The feed-forward layer.

Shapes: B batch, S sequence, H hidden, I intermediate.
"""

from __future__ import annotations

from paddle import Tensor, nn

from llm_pretrain import ops
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.parallel.tensor import ColumnParallelLinear, RowParallelLinear


class FeedForward(nn.Layer):
    """Down(silu(Gate(x)) · Up(x)) (arXiv:2002.05202)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        std = config.initializer_range
        self.gate_up = ColumnParallelLinear(
            config.hidden_size,
            {"gate": config.intermediate_size, "up": config.intermediate_size},
            bias=config.mlp_bias,
            fused=config.fuse_attention_ffn,
            std=std,
        )
        self.down = RowParallelLinear(
            config.intermediate_size, config.hidden_size, "down", bias=config.mlp_bias, std=std
        )

    def forward(self, x_BSH: Tensor) -> Tensor:
        gate_BSI, up_BSI = self.gate_up(x_BSH)
        return self.down(ops.swiglu(gate_BSI, up_BSI))
