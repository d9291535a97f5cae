"""What `check` and a run print of a configuration and its layout."""

from __future__ import annotations

from typing import Any

import pytest

from llm_pretrain.config import (
    describe_batches,
    describe_config,
    describe_degrees,
    describe_keys,
    describe_layout,
    resolve_degrees,
)

OPTIONS = "enable_stage1_overlap split_param"


@pytest.mark.parametrize("written", [OPTIONS, OPTIONS.split()])
def test_options_are_shown_as_one_writes_them(load, written: Any) -> None:
    lines = describe_config(load(sharding_parallel_config=written), columns=80)
    (line,) = (line for line in lines if "sharding_parallel_config" in line)
    assert line.split(maxsplit=1)[1] == f'"{OPTIONS}"  [run.json]'


@pytest.mark.parametrize("axis", ["sep", "context"])
def test_ranks_that_split_the_sequence_go_by_the_name_of_their_degree(load, axis: str) -> None:
    run = load(**{f"{axis}_parallel_degree": 2, "tensor_parallel_degree": 2})
    lines = describe_layout(run, resolve_degrees(run.training, 4))
    order = f"order of ranks, outermost first: data, pipeline, sharding, {axis}, tensor"
    assert lines == [order, f"{axis} groups: [0, 2] [1, 3]", "tensor groups: [0, 1] [2, 3]"]


def test_a_batch_that_the_run_does_not_reach_is_said(load) -> None:
    run = load(
        batch_ramp=[[0, 1], [32, 2], [1e30, 4]],
        per_device_train_batch_size=1,
        gradient_accumulation_steps=4,
    )
    lines = describe_batches(run, resolve_degrees(run.training, 1))[1:4]
    assert ["does not reach" in line for line in lines] == [False, False, True]


def test_lengths_of_sequences_are_shown(load) -> None:
    run = load(max_seq_length=64, length_ramp=[[0, 16], [1e30, 64]])
    lines = describe_batches(run, resolve_degrees(run.training, 1))[1:3]
    assert lines[0] == "from 0 tokens on: sequences of 16 tokens"
    assert lines[1].endswith("tokens on: sequences of 64 tokens, which the run does not reach")


def test_virtual_stages_are_shown(load) -> None:
    run = load(pipeline_parallel_degree=2, virtual_pp_degree=3)
    lines = describe_layout(run, resolve_degrees(run.training, 2))
    assert "virtual stages: 3 on each rank of a pipeline" in lines


def test_degrees_above_one_and_their_product(load) -> None:
    run = load(sharding="stage1", sharding_parallel_degree=2, tensor_parallel_degree=2)
    assert describe_degrees(resolve_degrees(run.training, 8)) == (
        "8 processes = data 2 × sharding 2 × tensor 2"
    )
    assert describe_degrees(resolve_degrees(load().training, 1)) == "1 process"


LONG = "/data/" + "corpus/" * 5 + "text"


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
@pytest.mark.parametrize("everything", [True, False])
def test_values_fit_the_columns(load, columns: int, everything: bool) -> None:
    run = load(input_dir=f"0.7 {LONG} 0.3 {LONG}", pipeline_parallel_degree=2)
    lines = describe_config(run, columns=columns, everything=everything)
    assert all(len(line) <= columns or len(line.split()) == 1 for line in lines)
    assert f"{LONG} 0.3" in " ".join(line.strip() for line in lines)


def test_what_is_left_at_its_default_is_shown_on_demand(load) -> None:
    run = load(seed=7)
    lines = [" ".join(line.split()) for line in describe_config(run, columns=80, everything=False)]
    assert "seed 7 [run.json]" in lines
    assert "decay_steps 100 [from max_steps]" in lines
    assert not any("[default]" in line for line in lines)
    assert f"and {len(run.sources) - len(lines) + 1} keys left at their defaults" in lines[-1]
    everything = [" ".join(line.split()) for line in describe_config(run, columns=80)]
    assert {*lines[:-1], "weight_decay 0 [default]"} <= set(everything)


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_help_on_all_keys_fits_the_columns(columns: int) -> None:
    lines = describe_keys(columns)
    assert max(map(len, lines)) in range(columns - 10, columns + 1)
    assert "  --learning_rate (5e-05)" in lines
