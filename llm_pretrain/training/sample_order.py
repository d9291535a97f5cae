"""Samples of a run that resumes: in which order, whether those that were read are the same ones,
and whether they reach to the end. Paddle is not imported."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from llm_pretrain.config import ConfigError, Degrees, RunConfig
from llm_pretrain.config.run_config import samples_of_steps


def sample_order(run: RunConfig, samples: int) -> dict[str, Any]:
    """What the order of the samples depends on, besides the files and stages of the data."""
    order = {
        "seed": run.training.seed,
        "split": run.data.split,
        "max_seq_length": run.data.max_seq_length,
    }
    return order if run.data.data_stages else {**order, "number of samples": samples}


def samples_in_order(run: RunConfig, state: Mapping[str, Any], samples: int) -> int:
    """For how many samples the order of a run that resumes is computed, `samples` or more.

    The number decides over the order. So a run that takes fewer than it began with, as one whose
    rate decays early does, goes on in the order that it began with.

    Args:
        state: of the checkpoint.
        samples: of the whole run, as its steps and batch give them.
    """
    if not samples or run.training.ignore_data_skip or run.data.data_stages:
        return samples
    before, known = state["sample_order"], state.get("samples_asked", 0)
    is_same = before == sample_order(run, before.get("number of samples", 0))
    return max(known, samples) if is_same else samples


def accept_samples(
    run: RunConfig,
    state: Mapping[str, Any],
    samples: int,
    degrees: Degrees,
    origin: Mapping[str, Any],
) -> list[str]:
    """What to tell of the samples that a run goes on with from a checkpoint's state.

    Args:
        origin: of the run that goes on.

    Raises:
        ConfigError: they do not reach to the end, or stages that are over have changed.
    """
    problems = shortage(run, state, degrees, samples) + rewritten_stages(run, state, origin)
    if problems:
        raise ConfigError(problems)
    before = state["sample_order"]
    now = sample_order(run, samples)
    changed = ", ".join(key for key, value in now.items() if before.get(key) != value)
    lines = []
    if changed:
        lines.append(f"The samples come in another order from here on: it depends on {changed}.")
    if before.keys() - now.keys():
        lines.append(
            "The run began without data_stages: from here on, a source that was beyond its first "
            "epoch comes in another order."
        )
    return lines


def rewritten_stages(
    run: RunConfig, state: Mapping[str, Any], origin: Mapping[str, Any]
) -> list[str]:
    """Why a run can't resume with its `data_stages`: what has been read would have been other data.

    Args:
        state: of the checkpoint.
        origin: of the run that goes on.
    """
    earlier = state.get("origin", {})
    stages = earlier.get("data", {}).get("stages")
    is_staged = any(of.get("run", {}).get("data_stages") for of in (earlier, origin))
    if stages is None or not is_staged:
        return []
    samples = int(state["progress"]["consumed_samples"])
    length = run.data.max_seq_length
    past, same = (_past(each, samples, length) for each in (stages, origin["data"]["stages"]))
    for number, (old, new) in enumerate(zip_longest(past, same)):
        if old != new:
            was, is_now = (_stage_text(of["run"], number) for of in (earlier, origin))
            other = f"{was} and not as {is_now}" if was != is_now else f"{was}, of other files"
            return [
                f"data_stages: {samples * length:,} tokens have been read, with stage {number + 1} "
                f"as {other}. Leave all up to there as it was, and change what comes later; or "
                "begin a new run from the weights, with continue_training"
            ]
    return []


def _past(
    stages: Sequence[Sequence[Any]], samples: int, length: int
) -> Iterator[tuple[float, str]]:
    """Of the stages that so many samples have come from: where each ended, and its blend."""
    begin = 0.0
    for until, blend in stages:
        if begin < samples:
            end = math.inf if until is None else math.ceil(until / length)
            yield min(end, samples), blend
            begin = end


def _stage_text(keys: Mapping[str, Any], number: int) -> str:
    """A stage, as one has written it; data without stages is one."""
    stages = keys.get("data_stages") or [{"until": None, "blend": keys.get("input_dir")}]
    if number >= len(stages):
        return "nothing"
    until, blend = stages[number]["until"], stages[number]["blend"]
    return f'"{blend}" to the end' if until is None else f'"{blend}" until {until:,.0f} tokens'


def shortage(run: RunConfig, state: Mapping[str, Any], degrees: Degrees, samples: int) -> list[str]:
    """Why the data do not reach to the end of a run that resumes.

    Args:
        state: of the checkpoint.
        samples: of the whole run, as its steps and batch give them.
    """
    progress = state["progress"]
    steps = run.training.max_steps - int(progress["global_step"])
    consumed = 0 if run.training.ignore_data_skip else int(progress["consumed_samples"])
    needed = samples_of_steps(run, degrees, max(steps, 0), consumed)
    if needed <= samples - consumed:
        return []
    return [
        f"the {steps} steps that are left need {needed} samples, but max_steps × batch "
        f"gives {samples}, of which {consumed} are consumed: the run began with a larger batch; go "
        "on with that batch, lower max_steps, or set ignore_data_skip"
    ]
