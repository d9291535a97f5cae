"""The architecture of a model, under the names of Hugging Face's config.json."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


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


Norm = Literal["rms_norm", "layer_norm"]
Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding (Su et al., arXiv:2104.09864)."""

    theta: float = 10000.0
    scaling: RopeScaling | None = None
    pairs: Literal["halves", "neighbours"] = "halves"
    """What turns together: dimensions i and i + D/2, or 2i and 2i + 1."""
    rotary_dim: int | None = None
    """The leading dimensions of a head that turn; None is all."""
    is_two_dimensional: bool = False
    """Half of the dimensions turn with the position, half with that within the block (GLM)."""


@dataclass(frozen=True)
class LearnedPositions:
    """A table of learned vectors, of which position 0 is row `offset`."""

    offset: int = 0


@dataclass(frozen=True)
class Extrapolation:
    """What is changed, outside training alone, for samples longer than those of training (Qwen)."""

    trained_length: int
    """Tokens of the samples that the model was trained on."""
    larger_base: bool = True
    """The base of the rotary embedding grows ("dynamic NTK")."""
    scaled_queries: bool = True
    """Queries grow with the logarithm of their position ("log-n attention")."""


@dataclass(frozen=True)
class BlankInfilling:
    """Text with blanks that are to be filled (Du et al., arXiv:2103.10360): the tokens of it."""

    mask_token_id: int
    """A short blank within the text, [MASK]."""
    gmask_token_id: int
    """A long blank at the end of the text, [gMASK]."""
    start_token_id: int
    """Stands before what fills a blank, <sop>."""
    end_token_id: int
    """Is predicted after what fills a short blank, <eop>."""
    long_share: float = 1.0
    """The part of the samples that have one long blank; the others have short ones."""
    block_positions: bool = False
    """Whether a token in a blank has the mask's position, and a second one within the blank."""


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
    rope: Rope | None = None
    learned_positions: LearnedPositions | None = None
    extrapolation: Extrapolation | None = None
    alibi: bool = False
    """Attention with linear biases (arXiv:2108.12409)."""
    norm: Norm = "rms_norm"
    activation: Activation = "silu"
    is_gated: bool = True
    """Whether the activation of one projection multiplies a second one."""
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    """Biases on query, key and value projections."""
    attention_output_bias: bool = False
    mlp_bias: bool = False
    query_key_norm: bool = False
    """Norms of each query and key head, before rotation (Qwen3)."""
    embedding_norm: bool = False
    """A norm right after the embedding (BLOOM)."""
    norm_head: bool = False
    """Rows of the head's table are scaled to length one (Baichuan 2)."""
    residual_from_norm: bool = False
    """A branch is added to its normalised input times `residual_scale` (as GLM has DeepNorm)."""
    residual_scale: float = 1.0
    embedding_gradient_share: float = 1.0
    """The part of its gradient that the embedding learns from (GLM-130B: 0.1)."""
    blank_infilling: BlankInfilling | None = None
    """Where samples have a context that sees all of itself, and blanks that are predicted."""
    initializer_range: float = 0.02
    """Standard deviation of the initial weights."""
    small_branch_ends: bool = False
    """The last weights of a residual branch begin smaller by √(2 · layers) (GPT-2)."""
    embedding_dropout: float = 0.0
    hidden_dropout: float = 0.0
    """Of both residual branches."""
    attention_dropout: float = 0.0
    """Of the attention probabilities."""
    use_flash_attention: bool = False
    """Keep nothing of the size of the attention scores; a choice of the run."""
    use_fused_linear_cross_entropy: bool = False
    """Keep nothing of the size of the logits for the loss; a choice of the run."""
    fuse_attention_qkv: bool = False
    fuse_attention_ffn: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    pad_token_id: int | None = None

    @property
    def end_tokens(self) -> tuple[int, ...]:
        """Ids of which each ends a document; () where none is known."""
        if self.eos_token_id is None:
            return ()
        return self.eos_token_id if isinstance(self.eos_token_id, tuple) else (self.eos_token_id,)

    @property
    def branch_end_range(self) -> float:
        """Standard deviation of the initial weights that end a residual branch."""
        if not self.small_branch_ends:
            return self.initializer_range
        return self.initializer_range / math.sqrt(2 * self.num_hidden_layers)

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Every published tensor of the whole model: canonical names and shapes.

        Weights of linear layers are [in, out]; a tied head has no tensor of its own.
        """
        hidden = self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (self.vocab_size, hidden)}
        if self.learned_positions is not None:
            rows = self.max_position_embeddings + self.learned_positions.offset
            shapes["positions.weight"] = (rows, hidden)
        if self.embedding_norm:
            shapes |= self._norm_shapes("embedding_norm", hidden)
        for index in range(self.num_hidden_layers):
            for name, shape in self._block_shapes().items():
                shapes[f"layers.{index}.{name}"] = shape
        shapes |= self._norm_shapes("norm", hidden)
        if not self.tie_word_embeddings:
            shapes["head.weight"] = (hidden, self.vocab_size)
        return shapes

    def _norm_shapes(self, name: str, size: int) -> dict[str, tuple[int, ...]]:
        kinds = ("weight", "bias") if self.norm == "layer_norm" else ("weight",)
        return {f"{name}.{kind}": (size,) for kind in kinds}

    def _block_shapes(self) -> dict[str, tuple[int, ...]]:
        hidden, intermediate = self.hidden_size, self.intermediate_size
        query = self.num_attention_heads * self.head_dim
        key_value = self.num_key_value_heads * self.head_dim
        linears = {
            "attention.query": (hidden, query, self.attention_bias),
            "attention.key": (hidden, key_value, self.attention_bias),
            "attention.value": (hidden, key_value, self.attention_bias),
            "attention.output": (query, hidden, self.attention_output_bias),
            "feed_forward.up": (hidden, intermediate, self.mlp_bias),
            "feed_forward.down": (intermediate, hidden, self.mlp_bias),
        }
        if self.is_gated:
            linears["feed_forward.gate"] = (hidden, intermediate, self.mlp_bias)
        shapes = self._norm_shapes("attention_norm", hidden)
        shapes |= self._norm_shapes("feed_forward_norm", hidden)
        if self.query_key_norm:
            for name in ("query_norm", "key_norm"):
                shapes |= self._norm_shapes(f"attention.{name}", self.head_dim)
        for name, (inputs, outputs, has_bias) in linears.items():
            shapes[f"{name}.weight"] = (inputs, outputs)
            if has_bias:
                shapes[f"{name}.bias"] = (outputs,)
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
