"""Normalisation layers."""

from __future__ import annotations

from paddle import Tensor, nn

from llm_pretrain import ops
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.parallel.pieces import Constant


class RMSNorm(nn.Layer):
    """Root mean square norm over the hidden axis, with a learned scale that begins at one."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.epsilon = config.norm_eps
        self.weight = self.create_parameter(
            [config.hidden_size], default_initializer=nn.initializer.Constant(1.0)
        )
        self.weight.initializer = Constant(1.0)

    def forward(self, x_BSH: Tensor) -> Tensor:
        return ops.rms_norm(x_BSH, self.weight, self.epsilon)
