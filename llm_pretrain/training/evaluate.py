"""The mean loss over a fixed part of a dataset."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice

import paddle

from llm_pretrain.data import Dataset, Datasets
from llm_pretrain.parallel.comm import progress
from llm_pretrain.parallel.comm.topology import Topology
from llm_pretrain.parallel.layers.micro_batch import split_batch
from llm_pretrain.parallel.layers.vocabulary import IGNORED_LABEL
from llm_pretrain.parallel.pipeline.executor import Pipeline
from llm_pretrain.training.reports import perplexity
from llm_pretrain.training.shared_batches import open_batches


def evaluate_each(
    evaluate_one: Callable[[Dataset], dict[str, float] | None], datasets: Datasets
) -> dict[str, float] | None:
    """The metrics of the validation split; or of the named sets, each with loss and perplexity of
    its own, `eval_loss` being the mean of their losses.

    None where one was broken off.
    """
    if not datasets.named_valid:
        assert datasets.valid is not None
        return evaluate_one(datasets.valid)
    found = {}
    for name, dataset in datasets.named_valid.items():
        metrics = evaluate_one(dataset)
        if metrics is None:
            return None
        found[name] = metrics
    loss = sum(metrics["eval_loss"] for metrics in found.values()) / len(found)
    seconds, samples = (
        sum(metrics[key] for metrics in found.values()) for key in ("eval_runtime", "eval_samples")
    )
    merged = {
        "eval_loss": loss,
        "eval_ppl": perplexity(loss),
        "eval_samples": samples,
        "eval_runtime": seconds,
        "eval_samples_per_second": samples / seconds,
    }
    for name, metrics in found.items():
        merged[f"eval_{name}_loss"] = metrics["eval_loss"]
        merged[f"eval_{name}_ppl"] = metrics["eval_ppl"]
    return merged


def evaluate(
    pipeline: Pipeline,
    dataset: Dataset,
    topology: Topology,
    *,
    batch_size: int,
    micro_batch_size: int,
    batches: int,
    should_stop: Callable[[], bool],
) -> dict[str, float] | None:
    """Loss, perplexity, samples and seconds of the first `batches` batches of all ranks.

    Every call takes the same samples, so that evaluations compare. The loss is the mean over all
    of their labels, however the samples are spread over ranks and micro-batches.

    Args:
        batch_size: samples per rank and batch.
        micro_batch_size: samples that pass the pipeline at a time.
        should_stop: asked before each batch, the same answer on every rank.

    Returns:
        None where it should stop before the end.
    """
    began = time.perf_counter()
    total = paddle.zeros([1])
    labels = paddle.zeros([1], "int64")
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
            done += 1
    count = int(topology.sum_over_batch(labels))
    loss = float(topology.sum_over_batch(total)) / max(count, 1)
    samples = done * batch_size * topology.batch_degree
    seconds = time.perf_counter() - began
    return {
        "eval_loss": loss,
        "eval_ppl": perplexity(loss),
        "eval_samples": samples,
        "eval_runtime": seconds,
        "eval_samples_per_second": samples / seconds,
        "eval_steps_per_second": done / seconds,
    }
