"""What the arguments demand of each other, before the number of processes or the model is known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from llm_pretrain.config.model_arguments import DataArguments, ModelArguments
from llm_pretrain.config.training_arguments import TrainingArguments


@dataclass(frozen=True)
class Conflict:
    """A demand that is not met: the keys it is about, and a sentence that says what is wrong."""

    keys: tuple[str, ...]
    sentence: str


def cross_checks(
    model: ModelArguments, data: DataArguments, training: TrainingArguments
) -> Iterator[Conflict]:
    """Every conflict among the arguments."""
    yield from _task(data, training)
    yield from _schedule(training)
    yield from _precision(training)
    yield from _intervals(training)
    yield from _parallelism(training)


def _task(data: DataArguments, training: TrainingArguments) -> Iterator[Conflict]:
    if not (training.do_train or training.do_eval or training.do_predict):
        yield Conflict(
            ("do_train", "do_eval", "do_predict"),
            "there is nothing to do: set do_train, do_eval or do_predict to true",
        )
    names_data = bool(data.input_dir and data.input_dir.strip())
    if names_data and data.data_stages:
        yield Conflict(
            ("data_stages", "input_dir"),
            "both name the data; keep one, where input_dir is as one stage for the whole run",
        )
    elif not names_data and not data.data_stages:
        yield Conflict(
            ("input_dir",),
            "no data is named: a directory with .bin/.idx files, or 'weight prefix' pairs",
        )
    if training.max_steps < 1:
        yield Conflict(
            ("max_steps",),
            f"{training.max_steps} is not a length: pretraining needs max_steps > 0, since the "
            "data are cut into as many samples as the steps take",
        )
    by_tokens = {
        "batch_ramp": training.batch_ramp,
        "length_ramp": training.length_ramp,
        "data_stages": data.data_stages,
    }
    for key in filter(by_tokens.get, by_tokens):
        if training.ignore_data_skip:
            yield Conflict(
                (key, "ignore_data_skip"),
                f"{key} goes by the tokens of the run, but ignore_data_skip counts anew; keep one",
            )
    if training.resume_from_checkpoint and training.overwrite_output_dir:
        yield Conflict(
            ("resume_from_checkpoint", "overwrite_output_dir"),
            "one asks to resume and the other to start anew; keep one",
        )


def _schedule(training: TrainingArguments) -> Iterator[Conflict]:
    kind, end, begin = training.lr_scheduler_type, training.decay_end, training.decay_begin
    if training.min_learning_rate > training.learning_rate and kind != "constant":
        yield Conflict(
            ("min_learning_rate", "learning_rate"),
            f"the floor {training.min_learning_rate:g} lies above the learning rate "
            f"{training.learning_rate:g}; lower min_learning_rate",
        )
    if kind == "inverse_sqrt" and not training.warmup:
        yield Conflict(
            ("lr_scheduler_type", "warmup_steps"),
            "inverse_sqrt falls from the end of the warm-up on; set warmup_steps or warmup_ratio",
        )
    if kind == "cosine_with_restarts" and training.num_cycles % 1:
        yield Conflict(("num_cycles",), f"{training.num_cycles:g} is no whole number of cycles")
    if "decay_steps" not in training.derived and 0 < end < training.warmup:
        yield Conflict(
            ("decay_steps", "warmup_steps"),
            f"the decay ends at step {end}, before the warm-up of {training.warmup:g} steps",
        )
    elif kind == "warmup_stable_decay" and not training.warmup <= begin < max(end, 1):
        yield Conflict(
            ("decay_from" if training.decay_from is not None else "decay_ratio", "decay_steps"),
            f"the decay would begin after step {begin:g}, which is not between the warm-up of "
            f"{training.warmup:g} steps and its end at step {end}",
        )


def _precision(training: TrainingArguments) -> Iterator[Conflict]:
    if training.fp16 and training.bf16:
        yield Conflict(("fp16", "bf16"), "both are true, but a run has one precision; keep one")
    elif training.amp_master_grad and training.fp16_opt_level == "O1":
        yield Conflict(
            ("amp_master_grad", "fp16_opt_level"),
            "master gradients belong to fp16_opt_level O2; with O1 gradients are fp32 already",
        )


def _intervals(training: TrainingArguments) -> Iterator[Conflict]:
    if training.logging_strategy == "steps" and training.logging_steps == 0:
        yield Conflict(("logging_steps",), "logging_strategy 'steps' needs logging_steps > 0")
    if training.evaluation_strategy == "steps" and not training.eval_steps:
        yield Conflict(
            ("eval_steps", "logging_steps"),
            "evaluation needs eval_steps > 0, or logging_steps > 0 to take it from",
        )
    if training.sample_prompts and training.sample_steps is None:
        yield Conflict(
            ("sample_prompts", "sample_steps"),
            "samples of text need sample_steps, the steps between two of them",
        )
    has_checkpoints = training.save_strategy == "steps" or (
        training.save_strategy == "epoch" and training.save_minutes is not None
    )
    for key in ("on_spike", "on_nan"):
        if getattr(training, key) == "rewind" and not has_checkpoints:
            yield Conflict(
                (key, "save_strategy"),
                f"there is no checkpoint to go back to with save_strategy "
                f"'{training.save_strategy}'; set it to steps, or {key} to skip_update",
            )
    if not training.load_best_model_at_end:
        return
    if training.evaluation_strategy != training.save_strategy:
        yield Conflict(
            ("load_best_model_at_end", "evaluation_strategy", "save_strategy"),
            "the best weights can only be kept if evaluation and saving go together, but "
            f"evaluation_strategy is '{training.evaluation_strategy}' and save_strategy "
            f"'{training.save_strategy}'",
        )
    elif (
        training.save_strategy == "steps"
        and training.eval_steps
        and training.save_steps % training.eval_steps
    ):
        yield Conflict(
            ("load_best_model_at_end", "save_steps", "eval_steps"),
            "the best weights can only be kept if every checkpoint has been evaluated, but "
            f"save_steps {training.save_steps} is no multiple of eval_steps {training.eval_steps}",
        )


def _parallelism(training: TrainingArguments) -> Iterator[Conflict]:
    if training.sequence_parallel and training.tensor_parallel_degree <= 1:
        yield Conflict(
            ("sequence_parallel", "tensor_parallel_degree"),
            "sequence parallelism works within a tensor-parallel group; set "
            "tensor_parallel_degree to 2 or more, or sequence_parallel to false",
        )
    if training.sep_parallel_degree > 1 and training.context_parallel_degree > 1:
        yield Conflict(
            ("sep_parallel_degree", "context_parallel_degree"),
            "both split the sequence; set one of them to 1",
        )


def idle_values(training: TrainingArguments) -> Iterator[tuple[str, str]]:
    """(key, reason) of every key that these arguments leave without effect."""
    if not training.recompute:
        yield "recompute_granularity", "recompute is false"
        yield "no_recompute_layers", "recompute is false"
        yield "pp_recompute_interval", "recompute is false"
    elif training.recompute_granularity != "full":
        yield "pp_recompute_interval", "it is for recompute_granularity 'full'"
    elif training.pipeline_parallel_degree <= 1:
        yield "pp_recompute_interval", "pipeline_parallel_degree is 1"
    mode = training.pipeline_schedule_mode
    if training.pipeline_parallel_degree <= 1:
        if training.virtual_pp_degree > 1:
            yield "virtual_pp_degree", "pipeline_parallel_degree is 1"
        yield "pipeline_schedule_mode", "pipeline_parallel_degree is 1"
    elif training.virtual_stages < training.virtual_pp_degree:
        yield "virtual_pp_degree", f"pipeline_schedule_mode {mode} has no virtual stages"
    elif mode not in (None, "1F1B", "VPP"):
        order = "one forward, one backward" + ", interleaved" * (mode == "ZBVPP")
        yield "pipeline_schedule_mode", f"the order of work is {order}; the losses are the same"
    if training.max_grad_norm < 0:
        yield "max_grad_norm", "below 0, as at 0, gradients are left as they are"
    if not (training.fp16 or training.bf16):
        yield "fp16_opt_level", "neither fp16 nor bf16 is true"
    if not training.fp16:
        yield "scale_loss", "fp16 is false"
    if training.warmup_steps:
        yield "warmup_ratio", "warmup_steps is given and wins"
    yield from _idle_in_schedule(training)
    if not training.do_eval:
        yield "eval_iters", "do_eval is false"
        yield "eval_data", "do_eval is false"
        yield "minimum_eval_times", "do_eval is false"
    if not (training.do_eval or training.do_predict):
        yield "per_device_eval_batch_size", "neither do_eval nor do_predict is true"
    if not training.sample_prompts:
        yield "sample_steps", "sample_prompts is not set"
    elif training.sample_steps and training.sample_steps > training.max_steps:
        yield "sample_prompts", f"sample_steps is above max_steps {training.max_steps}"
    if not training.do_predict:
        yield "test_iters", "do_predict is false"
    if training.evaluation_strategy != "steps":
        yield "eval_steps", f"evaluation_strategy is '{training.evaluation_strategy}'"
    if training.save_strategy != "steps":
        yield "save_steps", f"save_strategy is '{training.save_strategy}'"
    if training.logging_strategy != "steps":
        yield "logging_steps", f"logging_strategy is '{training.logging_strategy}'"


def _idle_in_schedule(training: TrainingArguments) -> Iterator[tuple[str, str]]:
    kind = training.lr_scheduler_type
    reason = f"lr_scheduler_type is '{kind}'"
    if kind in ("constant", "inverse_sqrt"):
        yield "decay_steps", reason
    if kind == "constant":
        yield "min_learning_rate", reason
    if kind != "cosine_with_restarts":
        yield "num_cycles", reason
    if kind != "warmup_stable_decay":
        for key in ("decay_type", "decay_ratio", "decay_from"):
            yield key, reason
    elif training.decay_from is not None:
        yield "decay_ratio", "decay_from is given and wins"
