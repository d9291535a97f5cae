"""Each demand of the arguments on each other has a message of its own."""

from __future__ import annotations

from typing import Any

import pytest

CASES: list[tuple[dict[str, Any], str]] = [
    ({"do_train": False}, "there is nothing to do"),
    ({"input_dir": None}, "no data is named"),
    ({"input_dir": " "}, "no data is named"),
    ({"data_stages": [{"blend": "a"}]}, "both name the data; keep one"),
    (
        {"data_stages": [{"blend": "a"}], "input_dir": None, "ignore_data_skip": True},
        "data_stages goes by the tokens of the run",
    ),
    (
        {"length_ramp": [[0, 1024]], "ignore_data_skip": True},
        "length_ramp goes by the tokens of the run",
    ),
    (
        {"batch_ramp": [[0, 1]], "ignore_data_skip": True},
        "batch_ramp goes by the tokens of the run",
    ),
    ({"max_steps": -1}, "-1 is not a length"),
    ({"max_steps": 0}, "0 is not a length"),
    ({"overwrite_output_dir": 1, "resume_from_checkpoint": "c"}, "the other to start anew"),
    ({"learning_rate": 1e-6}, "the floor 1e-05 lies above the learning rate 1e-06"),
    ({"warmup_steps": 20, "decay_steps": 10}, "the decay ends at step 10, before the warm-up"),
    ({"lr_scheduler_type": "inverse_sqrt"}, "set warmup_steps or warmup_ratio"),
    (
        {"lr_scheduler_type": "cosine_with_restarts", "num_cycles": 2.5},
        "2.5 is no whole number of cycles",
    ),
    (
        {"lr_scheduler_type": "warmup_stable_decay", "decay_ratio": 0.95, "warmup_steps": 10},
        "the decay would begin after step 5, which is not between the warm-up of 10 steps",
    ),
    (
        {"lr_scheduler_type": "warmup_stable_decay", "decay_from": 100},
        "the decay would begin after step 100, which is not between",
    ),
    ({"fp16": 1, "bf16": 1}, "a run has one precision"),
    ({"bf16": 1, "amp_master_grad": 1}, "master gradients belong to fp16_opt_level O2"),
    ({"logging_steps": 0}, "needs logging_steps > 0"),
    (
        {"do_eval": 1, "logging_steps": 0, "logging_strategy": "no"},
        "evaluation needs eval_steps > 0",
    ),
    ({"on_nan": "rewind", "save_strategy": "no"}, "no checkpoint to go back to"),
    ({"load_best_model_at_end": 1}, "evaluation_strategy is 'no' and save_strategy 'steps'"),
    (
        {"load_best_model_at_end": 1, "do_eval": 1, "eval_steps": 30, "save_steps": 40},
        "save_steps 40 is no multiple of eval_steps 30",
    ),
]


@pytest.mark.parametrize(("values", "message"), CASES, ids=lambda case: str(case)[:50])
def test_a_conflict_has_its_own_message(problems, values: dict[str, Any], message: str) -> None:
    (problem,) = problems(**values)
    assert message in problem
    assert any(f"{key}: " in problem for key in values)


@pytest.mark.parametrize(
    ("values", "notice"),
    [
        ({"warmup_steps": 101}, "the warm-up of 101 steps is longer than the run of 100"),
        ({"decay_from": 3}, "decay_from: no effect: lr_scheduler_type is 'linear'"),
        ({"num_cycles": 0.5}, "num_cycles: no effect: lr_scheduler_type is 'linear'"),
        (
            {"lr_scheduler_type": "constant", "min_learning_rate": 0},
            "min_learning_rate: no effect: lr_scheduler_type is 'constant'",
        ),
        ({"recompute_granularity": "full"}, "recompute_granularity: no effect: recompute is false"),
        ({"no_recompute_layers": [0]}, "no_recompute_layers: no effect: recompute is false"),
        ({"pp_recompute_interval": 2}, "pp_recompute_interval: no effect: recompute is false"),
        ({"pp_recompute_interval": 2, "recompute": 1}, "effect: pipeline_parallel_degree is 1"),
        (
            {"pp_recompute_interval": 2, "recompute": 1, "recompute_granularity": "core_attn"},
            "pp_recompute_interval: no effect: it is for recompute_granularity 'full'",
        ),
        ({"fp16_opt_level": "O2"}, "fp16_opt_level: no effect: neither"),
        ({"scale_loss": 8}, "scale_loss: no effect: fp16 is false"),
        ({"warmup_steps": 1, "warmup_ratio": 0.1}, "warmup_ratio: no effect: warmup_steps"),
        ({"eval_iters": 2}, "eval_iters: no effect: do_eval is false"),
        ({"sample_steps": 2}, "sample_steps: no effect: sample_prompts is not set"),
        (
            {"sample_steps": 101, "sample_prompts": ["a"]},
            "sample_prompts: no effect: sample_steps is above max_steps 100",
        ),
        ({"test_iters": 2}, "test_iters: no effect: do_predict is false"),
        ({"per_device_eval_batch_size": 2}, "per_device_eval_batch_size: no effect: neither"),
        ({"eval_steps": 2}, "eval_steps: no effect: evaluation_strategy is 'no'"),
        ({"save_strategy": "no", "save_steps": 2}, "save_steps: no effect: save_strategy is 'no'"),
        ({"logging_strategy": "epoch", "logging_steps": 2}, "logging_steps: no effect"),
        ({"virtual_pp_degree": 5}, "virtual_pp_degree: no effect: pipeline_parallel_degree is 1"),
        (
            {
                "pipeline_schedule_mode": "1F1B",
                "pipeline_parallel_degree": 2,
                "virtual_pp_degree": 2,
            },
            "virtual_pp_degree: no effect: pipeline_schedule_mode 1F1B has no virtual stages",
        ),
        (
            {"pipeline_schedule_mode": "FThenB", "pipeline_parallel_degree": 2},
            "pipeline_schedule_mode: no effect: the order of work is one forward, one backward",
        ),
        ({"pipeline_schedule_mode": "VPP"}, "pipeline_schedule_mode: no effect: pipeline_parall"),
        ({"max_grad_norm": -1}, "max_grad_norm: no effect: below 0"),
        ({"recompute": 1, "recompute_granularity": ""}, "recompute: False in place of the given"),
        ({"recompute": 1, "recompute_granularity": None}, "recompute: False in place of the given"),
        ({"sharding": "stage1 offload"}, "offload is not available yet"),
        ({"sharding_parallel_degree": 2}, "is plain data parallelism"),
        ({"amp_master_grad": 1}, "amp_master_grad: False in place of the given value"),
    ],
)
def test_what_is_met_in_another_way_is_told(load, values: dict[str, Any], notice: str) -> None:
    assert [line for line in load(**values).notices if notice in line]


def test_more_evaluations_are_planned_where_eval_steps_gives_too_few(load) -> None:
    run = load(max_steps=1000, do_eval=1, eval_steps=500, minimum_eval_times=9)
    assert run.training.eval_steps == 110


def test_warmup_steps_win_over_the_ratio(load) -> None:
    assert load(warmup_ratio=0.015).training.warmup == 1.5
    assert load(warmup_ratio=0.015, warmup_steps=3).training.warmup == 3


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ({}, "float32"),
        ({"fp16": 1}, "float16"),
        ({"bf16": 1, "fp16_opt_level": "O2"}, "bfloat16"),
        ({"bf16": 1, "fp16_opt_level": "O0"}, "float32"),
    ],
)
def test_compute_dtype(load, values: dict[str, Any], dtype: str) -> None:
    assert load(**values).training.compute_dtype == dtype
