"""What the model makes of the run's `sample_prompts`, on the way.

Every layout takes the road of an evaluation: a batch of one prompt, as long as a sample of
training, passes the pipeline once for each token, and all ranks take part. So it works wherever a
step does, sharded parameters, split sequences and stages included, and needs no model of its own;
what it costs is a forward pass for each token. The most probable token is taken, so that texts of
two steps, or of two layouts, compare.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import paddle
from paddle import Tensor, nn

from llm_pretrain.config import RunConfig
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.data.preprocess.tokenizers import Tokenizer
from llm_pretrain.parallel.comm import collectives, progress
from llm_pretrain.parallel.comm.topology import Topology
from llm_pretrain.parallel.layers.micro_batch import Sequences, split_batch
from llm_pretrain.parallel.layers.vocabulary import IGNORED_LABEL
from llm_pretrain.parallel.pipeline.executor import Pipeline
from llm_pretrain.training.reports import Reports

TOKENS = 40
"""That follow a prompt."""


class _Logits(nn.Layer):
    """A stage whose last chunk keeps its logits, where it is asked for losses."""

    def __init__(self, stage: nn.Layer) -> None:
        super().__init__()
        self.stage = stage
        self.found: Tensor | None = None
        """[1, S, V/t] of this rank's positions and part of the vocabulary."""

    def forward(
        self, x: Tensor, sequences: Sequences, labels_BS: Tensor | None, chunk: int
    ) -> Tensor:
        output = self.stage(x, sequences, None, chunk)
        if labels_BS is None:
            return output
        self.found = output.astype("float32")
        return paddle.zeros(labels_BS.shape)


class _Continuation:
    """The most probable tokens after a text, the same on every rank of a replica."""

    def __init__(
        self, pipeline: Pipeline, topology: Topology, model: ModelConfig, length: int
    ) -> None:
        self._logits = _Logits(pipeline.stage)
        self._topology = topology
        self._length = length
        self._pipeline = Pipeline(
            self._logits,
            topology,
            hidden_size=model.hidden_size,
            activation_dtype=pipeline.messages.dtype,
        )

    def after(self, tokens: list[int]) -> list[int]:
        """`TOKENS` of them, on every rank so many, or as many as a sample has room for."""
        text = list(tokens)
        for _ in range(min(TOKENS, self._length - len(tokens))):
            text.append(self._next(text))
        return text[len(tokens) :]

    def _next(self, text: list[int]) -> int:
        # What stands behind a text is seen by nothing in it.
        inputs = np.zeros((1, self._length), np.int64)
        inputs[0, : len(text)] = text
        (part,) = split_batch(inputs, np.zeros_like(inputs), 1, ignored_label=IGNORED_LABEL)
        self._pipeline.evaluate([part])
        token = paddle.zeros([1], "int64")
        if self._logits.found is not None:
            token = self._most_probable(self._logits.found, part.sequences, len(text) - 1)
            self._logits.found = None
        group = self._topology.pipeline_group
        if group is not None:
            collectives.broadcast(token, group.ranks[-1], group)
        return int(token)

    def _most_probable(self, logits: Tensor, sequences: Sequences, position: int) -> Tensor:
        """Over all parts of the vocabulary, by the rank that has the position; int64 [1]."""
        here = np.flatnonzero(sequences.positions == position)
        share = logits.shape[-1]
        if len(here):
            row = logits[0, int(here[0])]
            largest, token = row.max().reshape([1]), row.argmax().reshape([1])
            token = token.astype("int64") + self._topology.tensor_rank * share
        else:
            largest, token = paddle.full([1], -np.inf), paddle.full([1], -1, "int64")
        common = largest.clone()
        for group in (self._topology.tensor_group, self._topology.sequence_group):
            collectives.all_reduce(common, group, "max")
        # Of equal ones the first, as on one process: the largest of the negated.
        nowhere = paddle.full([1], -(1 << 62), "int64")
        negated = paddle.where(largest == common, -token, nowhere) if len(here) else nowhere
        for group in (self._topology.tensor_group, self._topology.sequence_group):
            collectives.all_reduce(negated, group, "max")
        return -negated


class TextSamples:
    """Of a run in which `preflight.sample_problems` finds none."""

    def __init__(
        self,
        run: RunConfig,
        model: ModelConfig,
        topology: Topology,
        pipeline: Pipeline,
        tokenizer: Callable[[], Tokenizer],
        reports: Reports,
    ) -> None:
        self._every = run.training.sample_steps or 0
        self._prompts = run.training.sample_prompts or ()
        self._length = run.data.max_seq_length
        self._reports = reports
        self._continuation = _Continuation(pipeline, topology, model, self._length)
        self._tokenizer = tokenizer() if self._prompts else None

    def take(self, step: int) -> None:
        """Continue the prompts where samples are due after this step, and tell the texts."""
        if self._tokenizer is None or step % self._every:
            return
        with self._reports.spending("evaluation"), progress.limited("samples of text"):
            for prompt in self._prompts:
                room = max(self._length - TOKENS, 1)
                tokens = self._tokenizer.encode(prompt)[-room:]
                found = self._continuation.after(tokens)
                end = self._tokenizer.eos_id
                known = [token for token in found if token < self._tokenizer.vocab_size]
                text = known[: known.index(end)] if end in known else known
                self._reports.text_sample(step, prompt, self._tokenizer.decode(text))
