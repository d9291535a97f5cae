"""What a peer's step depends on, from a configuration in this project's own keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from llm_pretrain.config import (
    ConfigError,
    Degrees,
    RunConfig,
    examine,
    resolve_degrees,
    split_command_line,
)
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.planning.trace import AttentionProduct
from llm_pretrain.training.preflight import model_config_of

Recompute = Literal["none", "core_attn", "full_attn", "full"]


@dataclass(frozen=True)
class PeerRun:
    """A model in a layout.

    Attributes:
        stage: of sharding, 0 to 3; 0 is plain data parallelism.
        recompute: what is computed again: the core of attention alone, attention with its
            projections, or whole layers.
        stage_of_pipeline: whose trace it is; the first stage holds the most micro-batches.
    """

    run: RunConfig
    model: ModelConfig
    degrees: Degrees
    recompute: Recompute
    stage: int
    stage_of_pipeline: int = 0

    @property
    def micro_batch(self) -> int:
        """Sequences."""
        return self.run.training.per_device_train_batch_size

    @property
    def sequence(self) -> int:
        """Tokens of a sequence."""
        return self.run.data.max_seq_length

    @property
    def tokens(self) -> int:
        """Of a micro-batch."""
        return self.micro_batch * self.sequence

    @property
    def micro_batches(self) -> int:
        """Of a step."""
        return self.run.training.gradient_accumulation_steps

    @property
    def tokens_per_step(self) -> int:
        """Of all ranks."""
        return self.tokens * self.micro_batches * self.degrees.dataset

    @property
    def dtype(self) -> str:
        """Of weights and activations."""
        return "bfloat16" if self.run.training.bf16 else "float16"

    @property
    def chunks(self) -> int:
        """Of a stage."""
        return self.degrees.virtual_pipeline

    def is_first(self, chunk: int) -> bool:
        """Whether a chunk of this stage has the embedding."""
        return self.part(chunk) == 0

    def is_last(self, chunk: int) -> bool:
        """Whether a chunk of this stage has the head."""
        return self.part(chunk) == self.degrees.pipeline * self.chunks - 1

    def part(self, chunk: int) -> int:
        """The place of a chunk of this stage in the model."""
        return chunk * self.degrees.pipeline + self.stage_of_pipeline

    def layers(self, chunk: int) -> range:
        """Those of a chunk: an equal part; the first have one more where it doesn't divide."""
        parts = self.degrees.pipeline * self.chunks
        each, more = divmod(self.model.num_hidden_layers, parts)
        part = self.part(chunk)
        begin = part * each + min(part, more)
        return range(begin, begin + each + (part < more))

    def attention(self, *, is_causal: bool = True, is_backward: bool) -> AttentionProduct:
        """Of a micro-batch, by the heads of one tensor-parallel rank."""
        model, tensor = self.model, self.degrees.tensor
        return AttentionProduct(
            batch=self.micro_batch,
            heads=model.num_attention_heads // tensor,
            key_value_heads=max(model.num_key_value_heads // tensor, 1),
            queries=self.sequence,
            keys=self.sequence,
            head_size=model.head_dim,
            dtype=self.dtype,
            is_causal=is_causal,
            is_backward=is_backward,
        )


def read_run(words: Sequence[str], gpus: int) -> PeerRun:
    """The run of a command line: a configuration, and `--key value`.

    Raises:
        ConfigError: every problem of it.
    """
    own = ("--output_dir", "unused", "--input_dir", "unused", "--continue_training", "false")
    run, problems = examine(*split_command_line([*words, *own]))
    if run is None:
        raise ConfigError(problems)
    model = model_config_of(run)
    training = run.training
    if not (training.bf16 or training.fp16):
        raise ConfigError(["bf16 or fp16: the programs that are modelled train in one of them"])
    granularity = training.recompute_granularity or "none"
    return PeerRun(
        run=run,
        model=model,
        degrees=resolve_degrees(training, gpus),
        recompute=granularity if training.recompute else "none",
        stage=int(training.sharding[-1]) if training.sharding else 0,
    )
