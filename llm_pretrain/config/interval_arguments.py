"""What happens every so many steps: evaluation, reports and checkpoints."""

from __future__ import annotations

import contextlib
import json
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from llm_pretrain.config.argument_types import (
    Arguments,
    Flag,
    Integer,
    Number,
    PathText,
    Prose,
    expanded,
    shown,
)

Strategy = Literal["no", "steps", "epoch"]
REPORTERS = ("visualdl", "tensorboard", "wandb", "mlflow", "swanlab", "all", "none")
"""The trackers by which curves are drawn; all: those that are installed."""


def _reporters(value: Any) -> tuple[str, ...]:
    names = value.replace(",", " ").split() if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)) or any(name not in REPORTERS for name in names):
        raise ValueError(f"{shown(value)} is not a reporter: {', '.join(REPORTERS)}")
    if "none" in names and len(names) > 1:
        raise ValueError(f"{shown(value)} names none and others; keep one of the two")
    return tuple(names)


Reporters = Annotated[
    tuple[str, ...],
    BeforeValidator(_reporters),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": list(REPORTERS)},
                {"type": "array", "items": {"enum": list(REPORTERS)}},
            ]
        }
    ),
]


def _resume(value: Any) -> Any:
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if not isinstance(value, str):
        raise ValueError(f"{shown(value)} is neither a checkpoint's directory nor true or false")
    return expanded(value)


Resume = Annotated[
    bool | str | None,
    BeforeValidator(_resume),
    WithJsonSchema({"type": ["boolean", "string", "null"]}),
]


def _save_steps(value: Any) -> Any:
    if value == "auto" or (type(value) in (int, float) and value > 0 and value % 1 == 0):
        return value if value == "auto" else int(value)
    raise ValueError(f"{shown(value)} is neither a number of steps, 1 or more, nor auto")


SaveSteps = Annotated[
    int | Literal["auto"],
    BeforeValidator(_save_steps),
    WithJsonSchema({"anyOf": [{"type": "integer", "exclusiveMinimum": 0}, {"enum": ["auto"]}]}),
]


def _prompts(value: Any) -> Any:
    """One text is a prompt whole, with its spaces and commas; several are a list, also in JSON."""
    if not isinstance(value, str) or value.lower() == "null":
        return value
    if value.startswith("["):
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(value)
    return (value,)


Prompts = Annotated[
    tuple[Prose, ...],
    BeforeValidator(_prompts),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]


class EvaluationArguments(Arguments):
    """Evaluation: when, and on how many batches."""

    evaluation_strategy: Strategy = Field(
        "no",
        description="steps: every eval_steps, and after the last step; epoch: once, at the end. "
        "do_eval turns 'no' into 'steps'.",
    )
    eval_steps: Integer | None = Field(
        None, ge=0, description="Steps between evaluations; by default logging_steps."
    )
    eval_iters: Integer = Field(
        10, gt=0, description="Batches per evaluation; every evaluation takes the same ones."
    )
    test_iters: Integer = Field(100, gt=0, description="Batches of the test split for do_predict.")
    minimum_eval_times: Integer | None = Field(
        None, gt=0, description="Evaluate at least this often: eval_steps is lowered if need be."
    )
    load_best_model_at_end: Flag = Field(
        False,
        description="The final model is the one with the lowest evaluation loss, not the last.",
    )
    sample_prompts: Prompts | None = Field(
        None, description="Texts that the model continues every sample_steps, for the log."
    )
    sample_steps: Integer | None = Field(
        None, gt=0, description="Steps between two samples of text."
    )


class ReportArguments(Arguments):
    """Reports: console, train_log.jsonl and trackers of experiments."""

    logging_strategy: Strategy = Field(
        "steps", description="steps: every logging_steps; epoch: once, at the end; no: never."
    )
    logging_steps: Integer = Field(500, ge=0, description="Steps between two reports.")
    logging_first_step: Flag = Field(False, description="Report the first step too.")
    logging_dir: PathText | None = Field(
        None, description="For trackers' files; by default output_dir/runs/<date and host>."
    )
    report_to: Reporters = Field(
        ("visualdl",),
        description="visualdl, tensorboard, wandb, mlflow, swanlab, several of them, all (that are "
        "installed) or none; train_log.jsonl is always written.",
    )
    disable_tqdm: Flag = Field(False, description="Plain lines in place of the live console.")


class CheckpointArguments(Arguments):
    """Checkpoints: when they are written, how many are kept, where to resume."""

    save_strategy: Strategy = Field(
        "steps",
        description="steps: every save_steps, and after the last step; epoch: once, at the end; "
        "no: never, but for a run that a signal ends.",
    )
    save_steps: SaveSteps = Field(
        500,
        description="Steps between two checkpoints; auto: as many as lose the least time, by what "
        "a save is measured to cost and mean_time_between_failures.",
    )
    save_minutes: Number | None = Field(
        None, gt=0, description="Minutes after which a checkpoint is due, besides save_steps."
    )
    mean_time_between_failures: Number = Field(
        8.0, gt=0, description="Hours between two failures of the job, for save_steps auto."
    )
    save_total_limit: Integer | None = Field(
        3,
        description="Checkpoints that are kept; older ones are removed. 0 or null keeps all.",
    )
    keep_every: Integer | None = Field(
        None, gt=0, description="Steps between checkpoints that are saved and kept for ever."
    )
    use_async_save: Flag | None = Field(
        None,
        description="Train on while a process of its own writes a copy of the state. By default "
        "where the copy fits in the free memory.",
    )
    while_saving: Literal["wait", "skip"] = Field(
        "wait", description="What a save does that is due while the last is still being written."
    )
    max_failed_saves: Integer = Field(
        3, gt=0, description="Saves that fail in a row before the run stops."
    )
    resume_from_checkpoint: Resume = Field(
        None,
        description="Checkpoint directory to resume from; true: the last one in output_dir, which "
        "must hold one; false: none. By default the last one in output_dir, if it holds one.",
    )
