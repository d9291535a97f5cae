"""The architecture of a model, under the names of Hugging Face's config.json."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class LinearScaling:
    """Positions are divided by `factor`."""

    factor: float


@dataclass(frozen=True)
class DynamicScaling:
    """NTK-aware: the base grows with a sequence longer than `max_position_embeddings`.

    Up to that length it is the plain embedding.
    """

    factor: float


@dataclass(frozen=True)
class Llama3Scaling:
    """Llama 3.1: long wavelengths are divided by `factor`, short ones kept, others interpolated."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True)
class YarnScaling:
    """YaRN (Peng et al., arXiv:2309.00071): interpolation by wavelength, and a temperature.

    `attention_factor` None derives the temperature from `factor`, `mscale` and `mscale_all_dim`.
    """

    factor: float
    original_max_position_embeddings: int
    attention_factor: float | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True


RopeScaling = LinearScaling | DynamicScaling | Llama3Scaling | YarnScaling


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding (Su et al., arXiv:2104.09864), first half rotated with second."""

    theta: float = 10000.0
    scaling: RopeScaling | None = None


@dataclass(frozen=True)
class ModelConfig:
    """One decoder-only model. Sizes are whole, before any parallelism."""

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    norm_eps: float
    rope: Rope
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    """Biases on query, key, value and output projections."""
    mlp_bias: bool = False
    initializer_range: float = 0.02
    """Standard deviation of the initial weights."""
    hidden_dropout: float = 0.0
    """Of the embeddings and of both residual branches."""
    attention_dropout: float = 0.0
    """Of the attention probabilities."""
    fuse_attention_qkv: bool = False
    fuse_attention_ffn: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Every published tensor of the whole model: canonical names and shapes.

        Weights of linear layers are [in, out]; a tied head has no tensor of its own.
        """
        hidden = self.hidden_size
        query = self.num_attention_heads * self.head_dim
        key_value = self.num_key_value_heads * self.head_dim
        attention = {
            "attention.query": (hidden, query),
            "attention.key": (hidden, key_value),
            "attention.value": (hidden, key_value),
            "attention.output": (query, hidden),
        }
        feed_forward = {
            "feed_forward.gate": (hidden, self.intermediate_size),
            "feed_forward.up": (hidden, self.intermediate_size),
            "feed_forward.down": (self.intermediate_size, hidden),
        }
        shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (self.vocab_size, hidden)}
        for index in range(self.num_hidden_layers):
            prefix = f"layers.{index}."
            for linears, bias in ((attention, self.attention_bias), (feed_forward, self.mlp_bias)):
                for name, shape in linears.items():
                    shapes[f"{prefix}{name}.weight"] = shape
                    if bias:
                        shapes[f"{prefix}{name}.bias"] = shape[1:]
            shapes[f"{prefix}attention_norm.weight"] = (hidden,)
            shapes[f"{prefix}feed_forward_norm.weight"] = (hidden,)
        shapes["norm.weight"] = (hidden,)
        if not self.tie_word_embeddings:
            shapes["head.weight"] = (hidden, self.vocab_size)
        return shapes

    def parameter_count(self) -> int:
        """Number of trainable values; a tied table counts once."""
        return sum(math.prod(shape) for shape in self.tensor_shapes().values())

    def flops_per_token(self, sequence_length: int) -> int:
        """Operations of one token's forward and backward pass, without recomputation.

        6 N + 12 L H Q T for N parameters, L layers, H heads of size Q and T tokens a sequence
        (PaLM, arXiv:2204.02311, appendix B).
        """
        width = self.num_attention_heads * self.head_dim
        attention = 12 * self.num_hidden_layers * width * sequence_length
        return 6 * self.parameter_count() + attention
