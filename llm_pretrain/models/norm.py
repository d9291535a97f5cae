"""Normalisation layers."""

from __future__ import annotations

from paddle import Tensor, nn

from llm_pretrain import ops
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.parallel.sharding.pieces import Constant


class RMSNorm(nn.Layer):
    """Root mean square norm over the last axis, with a learned scale that begins at one."""

    def __init__(self, size: int, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.weight = self.create_parameter(
            [size], default_initializer=nn.initializer.Constant(1.0)
        )
        self.weight.initializer = Constant(1.0)

    def forward(self, x: Tensor) -> Tensor:
        return ops.rms_norm(x, self.weight, self.epsilon)

    def of_sum(self, x: Tensor, branch: Tensor) -> tuple[Tensor, Tensor]:
        """x + branch, and its norm."""
        return ops.add_rms_norm(x, branch, self.weight, self.epsilon)


class LayerNorm(RMSNorm):
    """Layer norm over the last axis, with a learned scale and a learned shift from zero."""

    def __init__(self, size: int, epsilon: float) -> None:
        super().__init__(size, epsilon)
        self.bias = self.create_parameter([size], default_initializer=nn.initializer.Constant(0.0))

    def forward(self, x: Tensor) -> Tensor:
        return ops.layer_norm(x, self.weight, self.bias, self.epsilon)

    def of_sum(self, x: Tensor, branch: Tensor) -> tuple[Tensor, Tensor]:
        return ops.add_layer_norm(x, branch, self.weight, self.bias, self.epsilon)


def norm(config: ModelConfig, size: int | None = None) -> nn.Layer:
    """The model's kind of norm, over the hidden axis or one of `size`."""
    kind = LayerNorm if config.norm == "layer_norm" else RMSNorm
    return kind(size or config.hidden_size, config.norm_eps)
