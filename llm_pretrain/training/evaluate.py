"""The mean loss over a fixed part of a dataset."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from itertools import islice

import numpy as np
import paddle

from llm_pretrain.config import RunConfig
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.data import Dataset, Datasets
from llm_pretrain.data.preprocess.tokenizers import Tokenizer
from llm_pretrain.parallel.comm import progress
from llm_pretrain.parallel.comm.topology import Topology
from llm_pretrain.parallel.layers.micro_batch import split_batch
from llm_pretrain.parallel.layers.vocabulary import IGNORED_LABEL
from llm_pretrain.parallel.pipeline.executor import Pipeline
from llm_pretrain.training.reports import perplexity
from llm_pretrain.training.shared_batches import open_batches


class Evaluations:
    """What a run evaluates, the same samples each time.

    Where its tokenizer tells what each token stands for, bits per byte are told beside the loss:
    unlike losses they compare models of different tokenizers.

    Args:
        tokenizer: reads it, or raises ValueError where there is none.
    """

    def __init__(
        self,
        run: RunConfig,
        model: ModelConfig,
        topology: Topology,
        pipeline: Pipeline,
        tokenizer: Callable[[], Tokenizer],
        should_stop: Callable[[], bool],
    ) -> None:
        self._run = run
        self._model = model
        self._topology = topology
        self._pipeline = pipeline
        self._tokenizer = tokenizer
        self._should_stop = should_stop

    def of_validation(self, datasets: Datasets) -> dict[str, float] | None:
        """The metrics of the validation split; or of the named sets, each with those of its own,
        `eval_loss` being the mean of their losses. None where one was broken off."""
        batches = self._run.training.eval_iters
        if not datasets.named_valid:
            assert datasets.valid is not None
            return self.of(datasets.valid, batches)
        found = {}
        for name, dataset in datasets.named_valid.items():
            metrics = self.of(dataset, batches)
            if metrics is None:
                return None
            found[name] = metrics
        loss = sum(metrics["eval_loss"] for metrics in found.values()) / len(found)
        seconds, samples = (
            sum(metrics[key] for metrics in found.values())
            for key in ("eval_runtime", "eval_samples")
        )
        merged = {
            "eval_loss": loss,
            "eval_ppl": perplexity(loss),
            "eval_samples": samples,
            "eval_runtime": seconds,
            "eval_samples_per_second": samples / seconds,
        }
        for name, metrics in found.items():
            for key in ("loss", "ppl", "bits_per_byte"):
                if f"eval_{key}" in metrics:
                    merged[f"eval_{name}_{key}"] = metrics[f"eval_{key}"]
        return merged

    def of(self, dataset: Dataset, batches: int) -> dict[str, float] | None:
        """The metrics of the first `batches` of a dataset; None where they were broken off."""
        training = self._run.training
        size = training.per_device_eval_batch_size
        in_pipeline = self._topology.degrees.pipeline > 1
        return evaluate(
            self._pipeline,
            dataset,
            self._topology,
            batch_size=size,
            micro_batch_size=training.per_device_train_batch_size if in_pipeline else size,
            batches=batches,
            should_stop=self._should_stop,
            token_bytes=self._token_bytes,
        )

    @cached_property
    def _token_bytes(self) -> np.ndarray | None:
        """What each token stands for, of the model's whole vocabulary."""
        if self._model.blank_infilling is not None:
            return None
        try:
            found = self._tokenizer().token_bytes()
        except ValueError:  # there is no tokenizer: the data is token ids alone
            return None
        size = self._model.vocab_size
        return None if found is None else np.pad(found, (0, max(size - len(found), 0)))[:size]


def evaluate(
    pipeline: Pipeline,
    dataset: Dataset,
    topology: Topology,
    *,
    batch_size: int,
    micro_batch_size: int,
    batches: int,
    should_stop: Callable[[], bool],
    token_bytes: np.ndarray | None = None,
) -> dict[str, float] | None:
    """Loss, perplexity, bits per byte, samples and seconds of all ranks' first `batches` batches.

    Every call takes the same samples, so that evaluations compare. The loss is the mean over all
    of their labels, however the samples are spread over ranks and micro-batches.

    Args:
        batch_size: samples per rank and batch.
        micro_batch_size: samples that pass the pipeline at a time.
        should_stop: asked before each batch, the same answer on every rank.
        token_bytes: what each token of the vocabulary stands for, where that is known.

    Returns:
        None where it should stop before the end.
    """
    began = time.perf_counter()
    total = paddle.zeros([1])
    labels = paddle.zeros([1], "int64")
    # Of this rank's labels; and whether it can't tell.
    of_text = np.array([0, token_bytes is None], np.int64)
    done = 0
    with (
        progress.limited("evaluation"),
        open_batches(dataset, topology, batch_size=batch_size) as loader,
    ):
        for batch in islice(loader, batches):
            if should_stop():
                return None
            parts = split_batch(
                batch.tokens,
                batch.labels,
                micro_batch_size,
                ignored_label=IGNORED_LABEL,
                structure=batch.structure,
            )
            total += pipeline.evaluate([replace(part, label_count=1) for part in parts])
            for part in parts:
                labels += (part.labels != IGNORED_LABEL).sum()
                if token_bytes is not None:
                    known = part.labels.numpy()
                    of_text[0] += token_bytes[known[known != IGNORED_LABEL]].sum()
            done += 1
    count = int(topology.sum_over_batch(labels))
    nats = float(topology.sum_over_batch(total))
    size, missing = topology.sum_over_batch(paddle.to_tensor(of_text)).tolist()
    loss = nats / max(count, 1)
    samples = done * batch_size * topology.batch_degree
    seconds = time.perf_counter() - began
    per_byte = {} if missing or not size else {"eval_bits_per_byte": nats / math.log(2) / size}
    return {
        "eval_loss": loss,
        "eval_ppl": perplexity(loss),
        "eval_samples": samples,
        "eval_runtime": seconds,
        "eval_samples_per_second": samples / seconds,
        "eval_steps_per_second": done / seconds,
        **per_byte,
    }
