"""On which fewer processes a batch can be had, and that it stays the same there."""

from __future__ import annotations

from typing import Any

import pytest

from llm_pretrain.config import on_fewer, plan_batches, possible_sizes, resolve_degrees


@pytest.mark.parametrize(
    ("processes", "least", "values", "sizes"),
    [
        (4, None, {}, [4]),
        (4, 1, {"gradient_accumulation_steps": 1}, [4, 2, 1]),
        (4, 2, {"gradient_accumulation_steps": 3}, [4, 3, 2]),
        (6, 1, {"gradient_accumulation_steps": 2}, [6, 4, 3, 2, 1]),
        (4, 1, {"gradient_accumulation_steps": 3, "do_eval": True, "eval_iters": 1}, [4, 2, 1]),
        (8, 1, {"tensor_parallel_degree": 2, "gradient_accumulation_steps": 1}, [8, 4, 2]),
        (8, 3, {"tensor_parallel_degree": 2, "gradient_accumulation_steps": 1}, [8, 4]),
        (
            6,
            1,
            {
                "pipeline_parallel_degree": 2,
                "virtual_pp_degree": 2,
                "gradient_accumulation_steps": 2,
            },
            [6, 2],
        ),
    ],
    ids=str,
)
def test_possible_sizes(
    load, processes: int, least: int | None, values: dict[str, Any], sizes: list[int]
) -> None:
    run = load(min_processes=least, **values)
    assert possible_sizes(run, processes) == sizes


@pytest.mark.parametrize(
    ("values", "sharding"),
    [
        ({}, {4: 1, 3: 1, 2: 1}),
        ({"sharding": "stage1"}, {4: 4, 3: 3, 2: 2}),
        ({"sharding": "stage2", "sharding_parallel_degree": 2}, {4: 2, 3: 3, 2: 2}),
        ({"data_parallel_degree": 4}, {4: 1, 3: 1, 2: 1}),
    ],
    ids=str,
)
def test_the_samples_of_a_run_stay(load, values: dict[str, Any], sharding: dict[int, int]) -> None:
    run = load(
        min_processes=1,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=3,
        do_eval=True,
        eval_iters=6,
        **values,
    )
    whole = plan_batches(run, resolve_degrees(run.training, 4))
    for processes, degree in sharding.items():
        fewer = on_fewer(run, 4, processes)
        degrees = resolve_degrees(fewer.training, processes)
        assert (degrees.world_size, degrees.sharding) == (processes, degree)
        assert plan_batches(fewer, degrees) == whole
