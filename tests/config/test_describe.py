"""What `check` and a run print of a configuration and its layout."""

from __future__ import annotations

from typing import Any

import pytest

from llm_pretrain.config import describe_config, describe_layout, resolve_degrees

OPTIONS = "enable_stage1_overlap split_param"


@pytest.mark.parametrize("written", [OPTIONS, OPTIONS.split()])
def test_options_are_shown_as_one_writes_them(load, written: Any) -> None:
    lines = describe_config(load(sharding_parallel_config=written))
    (line,) = (line for line in lines if "sharding_parallel_config" in line)
    assert line.split(maxsplit=1)[1] == f'"{OPTIONS}"  [run.json]'


@pytest.mark.parametrize("axis", ["sep", "context"])
def test_ranks_that_split_the_sequence_go_by_the_name_of_their_degree(load, axis: str) -> None:
    run = load(**{f"{axis}_parallel_degree": 2, "tensor_parallel_degree": 2})
    lines = describe_layout(run, resolve_degrees(run.training, 4))
    order = f"order of ranks, outermost first: data, pipeline, sharding, {axis}, tensor"
    assert lines[1:] == [order, f"{axis} groups: [0, 2] [1, 3]", "tensor groups: [0, 1] [2, 3]"]


def test_virtual_stages_are_shown(load) -> None:
    run = load(pipeline_parallel_degree=2, virtual_pp_degree=3)
    lines = describe_layout(run, resolve_degrees(run.training, 2))
    assert "virtual stages: 3 on each rank of a pipeline" in lines
