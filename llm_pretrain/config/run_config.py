"""A whole, checked configuration, and the samples that it takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llm_pretrain.config.data_stages import samples_of_stages
from llm_pretrain.config.degrees import Degrees
from llm_pretrain.config.model_arguments import DataArguments, ModelArguments, OperatorArguments
from llm_pretrain.config.parallel_arguments import ParallelArguments, RecomputeArguments
from llm_pretrain.config.schedule_arguments import batch_at, length_at
from llm_pretrain.config.training_arguments import TrainingArguments


@dataclass(frozen=True)
class RunConfig:
    """All arguments of a run, where each came from, and what its author should know.

    `sources` says for every key "default", the file's name, "command line", or "from …" where
    another value implies it. `notices` holds one line per key that was given without an effect.
    `unknown` are the keys in whose place the default stands, since what was given is wrong.
    """

    model: ModelArguments
    data: DataArguments
    training: TrainingArguments
    sources: Mapping[str, str]
    notices: tuple[str, ...]
    unknown: frozenset[str] = frozenset()

    def values(self) -> dict[str, Any]:
        """Every key with its value."""
        return {
            **self.model.model_dump(),
            **self.data.model_dump(),
            **self.training.model_dump(),
        }

    def knows_model(self) -> bool:
        """Whether all that decides on the model is known."""
        return self.unknown.isdisjoint(
            ModelArguments.model_fields.keys() - OperatorArguments.model_fields.keys()
        )

    def knows_degrees(self) -> bool:
        """Whether all that the degrees follow from is known."""
        return self.unknown.isdisjoint(
            ParallelArguments.model_fields.keys() | RecomputeArguments.model_fields.keys()
        )

    def knows_layout(self) -> bool:
        """Whether all that the degrees must fit to each other and to the model is known."""
        others = {"max_seq_length", "gradient_accumulation_steps"}
        return self.knows_degrees() and self.unknown.isdisjoint(others)

    def knows_data(self) -> bool:
        """Whether all that decides on the samples is known."""
        return self.unknown.isdisjoint(DataArguments.model_fields.keys() | {"max_steps"})

    def knows_folders(self) -> bool:
        """Whether it is known where the run writes and resumes."""
        return self.unknown.isdisjoint(
            {"output_dir", "overwrite_output_dir", "resume_from_checkpoint"}
        )


@dataclass(frozen=True)
class BatchPlan:
    """Samples of a whole job, over all its processes."""

    samples_per_step: int
    """After the batch's ramp."""
    tokens_per_step: int
    train_samples: int
    valid_samples: int
    """Of each validation set."""
    test_samples: int
    train_tokens: int
    stage_samples: tuple[int, ...]
    """Of each of `data_stages`, whether the run trains or only evaluates; () without them."""


def plan_batches(run: RunConfig, degrees: Degrees) -> BatchPlan:
    """The samples that `run` takes with `degrees`; 0 of a split that is not asked for.

    The validation samples are those of one evaluation, since every evaluation takes the same.
    """
    training = run.training
    per_step = (
        training.per_device_train_batch_size
        * training.gradient_accumulation_steps
        * degrees.dataset
    )
    per_iteration = training.per_device_eval_batch_size * degrees.dataset
    train = samples_of_steps(run, degrees, max(training.max_steps, 0))
    return BatchPlan(
        samples_per_step=per_step,
        tokens_per_step=per_step * run.data.max_seq_length,
        train_samples=train if training.do_train else 0,
        valid_samples=per_iteration * training.eval_iters if training.do_eval else 0,
        test_samples=per_iteration * training.test_iters if training.do_predict else 0,
        train_tokens=train * run.data.max_seq_length if training.do_train else 0,
        stage_samples=samples_of_stages(
            run.data.data_stages or (), samples=train, length=run.data.max_seq_length
        ),
    )


def samples_of_step(run: RunConfig, degrees: Degrees, consumed: int) -> int:
    """Samples of the step that begins when so many have been consumed, over all ranks."""
    training = run.training
    batch = training.per_device_train_batch_size * training.gradient_accumulation_steps
    return batch_at(consumed * run.data.max_seq_length, training, batch * degrees.dataset)


def samples_of_steps(run: RunConfig, degrees: Degrees, steps: int, consumed: int = 0) -> int:
    """Samples of so many steps, the first of which begins when `consumed` have been consumed."""
    return sum(samples for _, samples in samples_by_length(run, degrees, steps, consumed))


def samples_by_length(
    run: RunConfig, degrees: Degrees, steps: int, consumed: int = 0
) -> list[tuple[int, int]]:
    """Those samples in order, with the tokens of the sequences into which they are cut."""
    training, whole = run.training, run.data.max_seq_length
    ramps = (*(training.batch_ramp or ()), *(training.length_ramp or ()))
    total, left = consumed, steps
    found: list[tuple[int, int]] = []
    for end in (*sorted({begin for begin, _ in ramps}), None):
        batch, taken = samples_of_step(run, degrees, total), left
        if end is not None:
            before = max(math.ceil(end / whole) - total, 0)
            taken = min(-(-before // batch), left)
        found.append((length_at(total * whole, training, whole), taken * batch))
        total, left = total + taken * batch, left - taken
    return found


def evaluation_share(run: RunConfig, plan: BatchPlan) -> float:
    """The evaluations' part of the arithmetic of the whole run, test split left out.

    A sample costs training three times what it costs evaluation: the backward pass has two
    products of matrices for each one of the forward pass.
    """
    training = run.training
    every = training.eval_steps if training.evaluation_strategy == "steps" else None
    # The last step is evaluated whether or not the interval ends there.
    evaluations = -(-training.max_steps // every) if every else 1
    forward = evaluations * plan.valid_samples * len(run.data.eval_data or [""])
    whole = forward + 3 * plan.train_samples
    return forward / whole if plan.train_samples else 0.0
