"""The feed-forward layer.

Shapes: B batch, S sequence, H hidden, I intermediate.
"""

from __future__ import annotations

from paddle import Tensor, nn

from llm_pretrain import ops
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.parallel.layers.tensor import ColumnParallelLinear, RowParallelLinear


class FeedForward(nn.Layer):
    """Down(activation(Gate(x)) · Up(x)) (arXiv:2002.05202), or Down(activation(Up(x)))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.activation = config.activation
        names = ("gate", "up") if config.is_gated else ("up",)
        self.gate_up = ColumnParallelLinear(
            config.hidden_size,
            dict.fromkeys(names, config.intermediate_size),
            bias=config.mlp_bias,
            fused=config.fuse_attention_ffn,
            std=config.initializer_range,
        )
        self.down = RowParallelLinear(
            config.intermediate_size,
            config.hidden_size,
            "down",
            bias=config.mlp_bias,
            std=config.branch_end_range,
        )

    def forward(self, x_BSH: Tensor) -> Tensor:
        return self.down(ops.activation(self.activation, *self.gate_up(x_BSH)))
