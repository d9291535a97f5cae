from __future__ import annotations

from typing import Any

import pytest

from llm_pretrain.config import (
    ConfigError,
    Degrees,
    TrainingArguments,
    plan_batches,
    resolve_degrees,
    smallest_world_size,
)
from llm_pretrain.config.degrees import ORDERS, rank_groups


def training(**values: Any) -> TrainingArguments:
    return TrainingArguments(output_dir="o", **values)


@pytest.mark.parametrize(
    ("values", "world_size", "expected"),
    [
        ({}, 1, {}),
        ({}, 4, {"data": 4}),
        ({"tensor_parallel_degree": 2}, 8, {"data": 4, "tensor": 2}),
        ({"sharding": "stage1"}, 8, {"sharding": 8}),
        ({"sharding": True, "tensor_parallel_degree": 2}, 8, {"sharding": 4, "tensor": 2}),
        ({"sharding": "stage1", "sharding_parallel_degree": 2}, 8, {"sharding": 2, "data": 4}),
        ({"sharding": "stage1", "sharding_parallel_degree": 1}, 8, {"data": 8}),
        ({"sharding_parallel_degree": 4}, 8, {"data": 8}),
        ({"sharding": "stage2"}, 1, {}),
        ({"virtual_pp_degree": 5}, 1, {}),
        (
            {
                "virtual_pp_degree": 2,
                "pipeline_parallel_degree": 2,
                "pipeline_schedule_mode": "VPP",
            },
            2,
            {"pipeline": 2, "virtual_pipeline": 2},
        ),
        (
            {
                "virtual_pp_degree": 2,
                "pipeline_parallel_degree": 2,
                "pipeline_schedule_mode": "1F1B",
            },
            2,
            {"pipeline": 2},
        ),
        ({"data_parallel_degree": 4, "tensor_parallel_degree": 2}, 8, {"data": 4, "tensor": 2}),
        ({"data_parallel_degree": 8, "sharding": "stage1"}, 8, {"sharding": 8}),
        ({"data_parallel_degree": 1, "sharding": "stage1"}, 8, {"sharding": 8}),
        (
            {
                "data_parallel_degree": 2,
                "sharding": "stage1",
                "sharding_parallel_degree": 2,
                "tensor_parallel_degree": 2,
            },
            8,
            {"data": 2, "sharding": 2, "tensor": 2},
        ),
        ({"virtual_pp_degree": 5, "pipeline_parallel_degree": 1}, 2, {"data": 2}),
        (
            {"tensor_parallel_degree": 4, "pipeline_parallel_degree": 2, "sharding": "stage1"},
            8,
            {"tensor": 4, "pipeline": 2},
        ),
    ],
)
def test_degrees(values: dict[str, Any], world_size: int, expected: dict[str, int]) -> None:
    names = ("data", "sharding", "tensor", "pipeline", "sep", "context", "virtual_pipeline")
    degrees = resolve_degrees(training(**values), world_size)
    assert degrees == Degrees(**(dict.fromkeys(names, 1) | expected))
    assert degrees.world_size == world_size


@pytest.mark.parametrize(
    ("values", "world_size", "message"),
    [
        ({"tensor_parallel_degree": 2}, 1, "tensor_parallel_degree 2 needs 2 processes"),
        ({"tensor_parallel_degree": 2}, 3, "the world size is 3"),
        (
            {"data_parallel_degree": 4, "tensor_parallel_degree": 4},
            8,
            "data_parallel_degree 4: the other degrees leave 2 of 8 processes; set it to that",
        ),
        (
            {"data_parallel_degree": 2, "sharding": "stage1", "sharding_parallel_degree": 2},
            8,
            "data_parallel_degree 2: the other degrees leave 4 of 8 processes, 8 with sharding",
        ),
        (
            {"tensor_parallel_degree": 4, "pipeline_parallel_degree": 2},
            4,
            "tensor_parallel_degree 4 × pipeline_parallel_degree 2 needs 8 processes",
        ),
        (
            {"sharding": "stage1", "sharding_parallel_degree": 3},
            4,
            "sharding_parallel_degree 3 needs 3 processes",
        ),
        ({}, 0, "1 to 1048576 processes"),
    ],
)
def test_degrees_that_do_not_make_the_world_size(
    values: dict[str, Any], world_size: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_degrees(training(**values), world_size)


def test_smallest_world_size() -> None:
    assert smallest_world_size(training()) == 1
    assert smallest_world_size(training(tensor_parallel_degree=2, sharding="stage1")) == 2
    assert (
        smallest_world_size(
            training(tensor_parallel_degree=2, sharding="stage1", sharding_parallel_degree=4)
        )
        == 8
    )


def layout(**degrees: int) -> Degrees:
    names = ("data", "sharding", "tensor", "pipeline", "sep", "context", "virtual_pipeline")
    return Degrees(**(dict.fromkeys(names, 1) | degrees))


def test_rank_groups_follow_the_order() -> None:
    degrees = layout(pipeline=2, sharding=2, tensor=2)
    assert rank_groups(degrees, "pp_first") == {
        "pipeline": [[0, 4], [1, 5], [2, 6], [3, 7]],
        "sharding": [[0, 2], [1, 3], [4, 6], [5, 7]],
        "tensor": [[0, 1], [2, 3], [4, 5], [6, 7]],
    }
    assert rank_groups(degrees, "sharding_first")["pipeline"] == [[0, 2], [1, 3], [4, 6], [5, 7]]


@pytest.mark.parametrize("order", ["pp_first", "sharding_first"])
def test_rank_groups_are_those_of_fleet(order: str) -> None:
    from paddle.distributed.fleet.base.topology import CommunicateTopology

    degrees = layout(data=2, pipeline=3, sharding=2, tensor=4)
    fleet_names = {"pipeline": "pipe", "tensor": "model"}
    sizes = {"data": 2, "pipeline": 3, "sharding": 2, "sep": 1, "tensor": 4}
    topology = CommunicateTopology(
        [fleet_names.get(axis, axis) for axis in ORDERS[order]],
        [sizes[axis] for axis in ORDERS[order]],
    )
    for axis, groups in rank_groups(degrees, order).items():
        assert groups == topology.get_comm_list(fleet_names.get(axis, axis))


def test_one_process_has_no_groups() -> None:
    assert rank_groups(layout(), "pp_first") == {}


def test_batches(load) -> None:
    run = load(
        per_device_train_batch_size=2,
        gradient_accumulation_steps=8,
        per_device_eval_batch_size=3,
        max_seq_length=4096,
        max_steps=100,
        do_eval=1,
    )
    plan = plan_batches(run, layout(sharding=4, tensor=2))
    assert plan.samples_per_step == 64
    assert plan.tokens_per_step == 262_144
    assert plan.train_samples == 6400
    assert plan.valid_samples == 3 * 4 * 10
    assert plan.test_samples == 0
