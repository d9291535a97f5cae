"""What Qwen changes for samples longer than those it was trained on (arXiv:2309.16609, 2.3).

Shapes: B batch, S sequence, N query heads, D head size.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import paddle
from paddle import Tensor

from llm_pretrain.config.model_config import Extrapolation, ModelConfig
from llm_pretrain.parallel.layers.micro_batch import Sequences


def with_larger_base(config: ModelConfig, length: int) -> ModelConfig:
    """`config` with the rotary embedding for samples of `length`.

    Over T trained tokens, the base grows by a^(D/(D-2)), a = 2^(ceil(log2(length/T)) + 1) - 1: in
    steps, so that it seldom changes while a text grows.
    """
    assert config.rope is not None
    assert config.extrapolation is not None
    doublings = math.ceil(math.log2(length / config.extrapolation.trained_length))
    # The only pair of a head of two turns by one radian, whatever the base.
    if doublings <= 0 or not config.extrapolation.larger_base or config.head_dim == 2:
        return config
    growth = (2.0 ** (doublings + 1) - 1) ** (config.head_dim / (config.head_dim - 2))
    return replace(config, rope=replace(config.rope, theta=config.rope.theta * growth))


def scale_queries(q_BSND: Tensor, sequences: Sequences, extrapolation: Extrapolation) -> Tensor:
    """Queries times log_T(n) where n, the tokens up to their own, is more than the trained T."""
    trained = extrapolation.trained_length
    if not extrapolation.scaled_queries or sequences.length <= trained:
        return q_BSND
    positions = sequences.positions
    if sequences.position_ids is not None:
        positions = sequences.position_ids[:, positions]
    factors = np.log(np.maximum(positions + 1, trained)) / math.log(trained)
    scale = paddle.to_tensor(factors[..., None, None].astype(np.float32))
    return (q_BSND.astype("float32") * scale).astype(q_BSND.dtype)
