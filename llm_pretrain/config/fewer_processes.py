"""The same batch on fewer processes than a run was started with (`min_processes`).

The tensor, pipeline, sep and context degrees stay; there are fewer data and sharding ranks, each of
which takes more micro-batches a step, and more batches of an evaluation.
"""

from __future__ import annotations

from dataclasses import replace

from llm_pretrain.config.degrees import Degrees, resolve_degrees
from llm_pretrain.config.run_config import RunConfig


def possible_sizes(run: RunConfig, processes: int) -> list[int]:
    """The numbers of processes that a run of `processes` can go on with, the largest first.

    One fits where the other degrees divide it and what it leaves, the ranks that see different
    samples, divides the micro-batches of a step and the batches of an evaluation.

    Raises:
        ConfigError: the degrees don't fit `processes`.
    """
    least = run.training.min_processes
    degrees = resolve_degrees(run.training, processes)
    if least is None:
        return [processes]
    each = processes // degrees.dataset
    fewer = range(degrees.dataset - 1, 0, -1)
    fitting = (each * ranks for ranks in fewer if _divides(ranks, run, degrees))
    return [processes, *(size for size in fitting if size >= least)]


def _divides(ranks: int, run: RunConfig, degrees: Degrees) -> bool:
    training = run.training
    shared = [training.gradient_accumulation_steps]
    if training.do_eval:
        shared.append(training.eval_iters)
    if training.do_predict:
        shared.append(training.test_iters)
    if any(number * degrees.dataset % ranks for number in shared):
        return False
    share = training.per_device_train_batch_size * ranks
    if degrees.virtual_pipeline > 1:
        share *= degrees.pipeline
    if any(samples % share for _, samples in training.batch_ramp or ()):
        return False
    steps = training.gradient_accumulation_steps * degrees.dataset // ranks
    return degrees.virtual_pipeline == 1 or steps % degrees.pipeline == 0


def on_fewer(run: RunConfig, whole: int, processes: int) -> RunConfig:
    """A run of `whole` processes with the same batch on `processes`, one of `possible_sizes`.

    The sharding degree stays where it fits; else all ranks that see different samples are of one
    sharding group.
    """
    if processes == whole:
        return run
    training = run.training
    before = resolve_degrees(training, whole)
    ranks = before.dataset * processes // whole

    def shared(number: int) -> int:
        return number * before.dataset // ranks

    changes = {
        "gradient_accumulation_steps": shared(training.gradient_accumulation_steps),
        "eval_iters": shared(training.eval_iters) if training.do_eval else training.eval_iters,
        "test_iters": shared(training.test_iters) if training.do_predict else training.test_iters,
        "data_parallel_degree": -1,
    }
    if before.sharding > 1 and ranks % before.sharding:
        changes["sharding_parallel_degree"] = -1
    sources = dict.fromkeys(changes, "from min_processes")
    return replace(
        run,
        training=training.model_copy(update=changes),
        sources={**run.sources, **sources},
    )
