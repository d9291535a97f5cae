"""Where a token stands: learned vectors; the angles of rotary embedding, plain and scaled; and what
changes beyond the trained length.

Shapes: B batch, S sequence, H hidden, N query heads, K key heads, D head size.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
import paddle
from numpy.typing import NDArray
from paddle import Tensor, nn

from llm_pretrain import ops
from llm_pretrain.config.model_config import (
    DynamicScaling,
    Extrapolation,
    LinearScaling,
    Llama3Scaling,
    ModelConfig,
    Rope,
    YarnScaling,
)
from llm_pretrain.machine.device import to_device
from llm_pretrain.parallel.layers.micro_batch import Ranges, Sequences
from llm_pretrain.parallel.sharding.pieces import Normal


class PositionEmbedding(nn.Layer):
    """A learned vector for every position (arXiv:1706.03762, section 3.5)."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        assert model.learned_positions is not None
        self.offset = model.learned_positions.offset
        self.weight = self.create_parameter(
            [model.max_position_embeddings + self.offset, model.hidden_size],
            default_initializer=nn.initializer.Constant(0.0),
        )
        self.weight.initializer = Normal(model.initializer_range)

    def forward(self, sequences: Sequences) -> Tensor:
        """The vectors of this rank's hidden positions, [S, H] or [B, S, H]."""
        if sequences.position_ids is None:
            ids = to_device(sequences.hidden_positions)
        else:
            ids = to_device(sequences.position_ids[:, sequences.hidden_positions])
        return nn.functional.embedding(ids + self.offset, self.weight)


def rotate(
    model: ModelConfig, sequences: Sequences, q_BSND: Tensor, k_BSKD: Tensor
) -> tuple[Tensor, Tensor]:
    """Queries and keys turned by their positions, as the model's `rope` has it."""
    rope = model.rope
    assert rope is not None
    if rope.is_two_dimensional:
        cos, sin = (
            paddle.concat(tables, axis=-1)
            for tables in zip(
                rotary_tables(model, sequences, sequences.position_ids),
                rotary_tables(model, sequences, sequences.block_position_ids),
                strict=True,
            )
        )
    else:
        cos, sin = rotary_tables(model, sequences, sequences.position_ids)
    spans = cos.shape[-1] // 2 if rope.pairs == "neighbours" else 1 + rope.is_two_dimensional
    return ops.rotary(q_BSND, k_BSKD, cos, sin, spans=spans)


def rotary_tables(
    model: ModelConfig, sequences: Sequences, position_ids: NDArray[np.int64] | None = None
) -> tuple[Tensor, Tensor]:
    """Cosines and sines, float32 [S, D] each, of the positions that attention holds here.

    With `position_ids` [B, length] of whole samples, [B, S, D]. D is what turns of a head; with
    two dimensions, half of it.
    """
    rope = model.rope
    assert rope is not None
    size = (rope.rotary_dim or model.head_dim) // (1 + rope.is_two_dimensional)
    chunks = sequences.ranges if position_ids is None else ((0, sequences.length),)
    tables = _tables(rope, size, model.max_position_embeddings, sequences.length, chunks)
    if position_ids is None:
        return tables
    ids_BS = to_device(position_ids[:, sequences.positions])
    cos, sin = (nn.functional.embedding(ids_BS, table) for table in tables)
    return cos, sin


@lru_cache(maxsize=16)
def _tables(
    rope: Rope, head_dim: int, max_position_embeddings: int, length: int, chunks: Ranges
) -> tuple[Tensor, Tensor]:
    cos, sin = _values(rope, head_dim, max_position_embeddings, length, chunks)
    return to_device(cos), to_device(sin)


@lru_cache(maxsize=1)
def _values(
    rope: Rope, head_dim: int, max_position_embeddings: int, length: int, chunks: Ranges
) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines, float32 [S, D]."""
    frequencies, amplitude = rotary_frequencies(rope, head_dim, max_position_embeddings, length)
    positions = np.concatenate([np.arange(*chunk, dtype=np.float32) for chunk in chunks])
    angles = np.outer(positions, frequencies.astype(np.float32))
    if rope.pairs == "neighbours":
        angles = np.repeat(angles, 2, axis=-1)
    else:
        angles = np.concatenate([angles, angles], axis=-1)
    cos, sin = np.cos(angles) * np.float32(amplitude), np.sin(angles) * np.float32(amplitude)
    return cos, sin


def rotary_frequencies(
    rope: Rope, head_dim: int, max_position_embeddings: int, sequence_length: int
) -> tuple[np.ndarray, float]:
    """Radians per position of every pair, float64 [D/2], and a factor on cosine and sine.

    The formulas are those that the scalings' authors published: linear (kaiokendev), dynamic NTK
    (bloc97, emozilla), Llama 3 (Meta's Llama 3.1 release), YaRN (arXiv:2309.00071, section 3).
    """
    scaling = rope.scaling
    theta = rope.theta
    # The only pair of a head of two turns by one radian, whatever the base.
    if isinstance(scaling, DynamicScaling) and head_dim > 2:
        stretch = max(sequence_length / max_position_embeddings, 1.0)
        theta *= (scaling.factor * stretch - (scaling.factor - 1)) ** (head_dim / (head_dim - 2))
    plain = theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    if isinstance(scaling, LinearScaling):
        return plain / scaling.factor, 1.0
    if isinstance(scaling, Llama3Scaling):
        return _llama3(plain, scaling), 1.0
    if isinstance(scaling, YarnScaling):
        return _yarn(plain, scaling, theta), _yarn_amplitude(scaling)
    return plain, 1.0


def alibi_slopes(heads: int) -> NDArray[np.float32]:
    """What each head takes off a score per token of distance, float32 [heads].

    Press et al., arXiv:2108.12409, section 3: 2^(-8i/n) for i = 1 … n of n heads. Where n is no
    power of two, those of the power below it, then every second one of the power above it, as in
    the authors' program.
    """

    def series(count: int) -> NDArray[np.float64]:
        return 2.0 ** (-8.0 * np.arange(1, count + 1) / count)

    whole = 1 << (heads.bit_length() - 1)
    slopes = np.concatenate([series(whole), series(2 * whole)[0::2]])
    return slopes[:heads].astype(np.float32)


def _llama3(plain: np.ndarray, scaling: Llama3Scaling) -> np.ndarray:
    turns = scaling.original_max_position_embeddings * plain / (2 * math.pi)
    share = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    kept = np.clip(share, 0.0, 1.0)
    return kept * plain + (1 - kept) * plain / scaling.factor


def _yarn(plain: np.ndarray, scaling: YarnScaling, theta: float) -> np.ndarray:
    head_dim = 2 * len(plain)

    def pair_with(turns: float) -> float:
        """The (fractional) pair that makes that many turns over the original length."""
        length = scaling.original_max_position_embeddings / (turns * 2 * math.pi)
        return head_dim * math.log(length) / (2 * math.log(theta))

    first, last = pair_with(scaling.beta_fast), pair_with(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, head_dim - 1)
    width = last - first or 0.001
    interpolated = np.clip((np.arange(len(plain)) - first) / width, 0.0, 1.0)
    return (1 - interpolated) * plain + interpolated * plain / scaling.factor


def _yarn_amplitude(scaling: YarnScaling) -> float:
    def temperature(weight: float) -> float:
        return 0.1 * weight * math.log(scaling.factor) + 1.0 if scaling.factor > 1 else 1.0

    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.mscale and scaling.mscale_all_dim:
        return temperature(scaling.mscale) / temperature(scaling.mscale_all_dim)
    return temperature(1.0)


# What Qwen changes for samples longer than those it was trained on (arXiv:2309.16609, 2.3).


def with_larger_base(model: ModelConfig, length: int) -> ModelConfig:
    """`model` with the rotary embedding for samples of `length`.

    Over T trained tokens, the base grows by a^(D/(D-2)), a = 2^(ceil(log2(length/T)) + 1) - 1: in
    steps, so that it seldom changes while a text grows.
    """
    assert model.rope is not None
    assert model.extrapolation is not None
    doublings = math.ceil(math.log2(length / model.extrapolation.trained_length))
    # The only pair of a head of two turns by one radian, whatever the base.
    if doublings <= 0 or not model.extrapolation.larger_base or model.head_dim == 2:
        return model
    growth = (2.0 ** (doublings + 1) - 1) ** (model.head_dim / (model.head_dim - 2))
    return replace(model, rope=replace(model.rope, theta=model.rope.theta * growth))


def scale_queries(q_BSND: Tensor, sequences: Sequences, extrapolation: Extrapolation) -> Tensor:
    """Queries times log_T(n) where n, the tokens up to their own, is more than the trained T."""
    trained = extrapolation.trained_length
    if not extrapolation.scaled_queries or sequences.length <= trained:
        return q_BSND
    positions = sequences.positions
    if sequences.position_ids is not None:
        positions = sequences.position_ids[:, positions]
    factors = np.log(np.maximum(positions + 1, trained)) / math.log(trained)
    scale = to_device(factors[..., None, None].astype(np.float32))
    return (q_BSND.astype("float32") * scale).astype(q_BSND.dtype)
