"""Values that have no effect because of others."""

from __future__ import annotations

from collections.abc import Iterator

from llm_pretrain.config.training_arguments import TrainingArguments


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
    if not training.do_eval:
        yield "eval_iters", "do_eval is false"
        yield "minimum_eval_times", "do_eval is false"
    if not (training.do_eval or training.do_predict):
        yield "per_device_eval_batch_size", "neither do_eval nor do_predict is true"
    if not training.do_predict:
        yield "test_iters", "do_predict is false"
    if training.evaluation_strategy != "steps":
        yield "eval_steps", f"evaluation_strategy is '{training.evaluation_strategy}'"
    if training.save_strategy != "steps":
        yield "save_steps", f"save_strategy is '{training.save_strategy}'"
    if training.logging_strategy != "steps":
        yield "logging_steps", f"logging_strategy is '{training.logging_strategy}'"
