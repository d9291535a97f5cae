"""What a run gives the operators to do: the shapes on which implementations are timed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llm_pretrain.config import Degrees, RunConfig
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.ops.mask import Mask

_MOST_PARAMETERS = 1 << 24
"""Of a step of the optimizer that is timed; beyond, its time grows with their number alone."""


@dataclass(frozen=True)
class Workload:
    """A micro-batch as one process has it, in one layer."""

    compute_dtype: str
    weight_dtype: str
    """Of the residual stream and the parameters of norms, too."""
    samples: int
    positions: int
    """Of a sample, as layers have them."""
    attended: int
    """Of a sample, as attention has them."""
    hidden: int
    heads: int
    key_heads: int
    head_size: int
    intermediate: int
    vocabulary: int
    parameters: int
    """That the process updates."""
    norm: str
    activation: str
    is_gated: bool
    turned: int
    """Features of a head that are rotated; 0 is none."""
    pairs_neighbours: bool
    has_slopes: bool
    has_prefix: bool
    has_documents: bool
    keeps_no_scores: bool

    @classmethod
    def of(cls, run: RunConfig, model: ModelConfig, degrees: Degrees) -> Workload:
        """What a run of the model gives a process of a job with these degrees."""
        length, parts = run.data.max_seq_length, degrees.tensor * degrees.sep
        rope = model.rope
        return cls(
            compute_dtype=run.training.compute_dtype,
            weight_dtype=run.training.weight_dtype,
            samples=run.training.per_device_train_batch_size,
            positions=max(length // (degrees.sep * degrees.context), 1),
            attended=max(length // degrees.context, 1),
            hidden=model.hidden_size,
            heads=max(model.num_attention_heads // parts, 1),
            key_heads=max(model.num_key_value_heads // parts, 1),
            head_size=model.head_dim,
            intermediate=max(model.intermediate_size // degrees.tensor, 1),
            vocabulary=-(-model.vocab_size // degrees.tensor),
            parameters=min(
                -(
                    -model.parameter_count()
                    // (degrees.tensor * degrees.pipeline * degrees.sharding)
                ),
                _MOST_PARAMETERS,
            ),
            norm=model.norm,
            activation=model.activation,
            is_gated=model.is_gated,
            turned=0 if rope is None else rope.rotary_dim or model.head_dim,
            pairs_neighbours=rope is not None and rope.pairs == "neighbours",
            has_slopes=model.alibi,
            has_prefix=model.blank_infilling is not None,
            has_documents=run.data.reset_attention_mask,
            keeps_no_scores=model.use_flash_attention,
        )

    @property
    def rows(self) -> int:
        """Tokens."""
        return self.samples * self.positions

    def mask(self) -> Mask:
        """What the positions of a sample see, with documents and prefixes of some length."""
        quarter = max(self.attended // 4, 1)
        starts = np.arange(self.attended)[None].repeat(self.samples, 0) // quarter * quarter
        slopes = 0.5 ** np.arange(1, self.heads + 1, dtype=np.float32)
        return Mask(
            slopes=slopes if self.has_slopes else None,
            prefix_ends=starts + quarter // 2 if self.has_prefix else None,
            document_starts=starts if self.has_documents else None,
        )
