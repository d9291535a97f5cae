"""The search against an enumeration of everything, on a program that is written down by hand."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from llm_pretrain.config import RunConfig, examine
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.planning.layouts import (
    RECOMPUTE,
    Layout,
    frames,
    layout_of,
    own_layout,
    run_with,
    with_sharding,
)
from llm_pretrain.planning.machines import Machine, load_machine
from llm_pretrain.planning.plan import Planner
from llm_pretrain.planning.profile import total
from llm_pretrain.planning.search import search
from llm_pretrain.training.preflight import model_config_of
from tests.planning.analytic import AnalyticProgram

KEYS = {
    "model_name_or_path": "meta-llama/Llama-2-7b",
    "num_hidden_layers": 4,
    "output_dir": "out",
    "do_train": True,
    "max_steps": 100,
    "max_seq_length": 2048,
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 8,
    "bf16": True,
    "fp16_opt_level": "O2",
    "save_steps": 50,
}


def run_of(**keys: object) -> RunConfig:
    words = [word for key, value in {**KEYS, **keys}.items() for word in (f"--{key}", str(value))]
    run, problems = examine(None, words)
    assert run is not None
    assert [problem for problem in problems if "input_dir" not in problem] == []
    return run


@pytest.fixture(scope="module")
def run() -> RunConfig:
    return run_of()


@pytest.fixture(scope="module")
def model(run: RunConfig) -> ModelConfig:
    return model_config_of(run)


def everything(run: RunConfig, model: ModelConfig, devices: int, samples: int) -> list[Layout]:
    return [
        layout
        for frame in frames(run, model, devices, samples)
        for recompute in RECOMPUTE
        for layout in with_sharding(replace(frame, recompute=recompute))
    ]


def test_a_layout_is_the_keys_that_ask_for_it(run: RunConfig, model: ModelConfig) -> None:
    layouts = everything(run, model, 8, 32)
    assert len(layouts) == len(set(layouts)) > 500
    for layout in layouts[::25]:
        again, samples = own_layout(run_with(run, layout), 8)
        assert (again, samples) == (layout, 32)


def test_illegal_layouts_are_left_out(run: RunConfig, model: ModelConfig) -> None:
    # Three heads of four are nobody's; five stages of four blocks neither.
    found = {(layout.tensor, layout.pipeline) for layout in frames(run, model, 30, 60)}
    assert {tensor for tensor, _ in found} == {1, 2}
    assert {pipeline for _, pipeline in found} == {1, 2, 3}
    for layout in frames(run, model, 8, 32):
        assert layout.virtual == 1 or layout.accumulation % layout.pipeline == 0


def test_a_ramp_of_the_batch_is_split_over_the_data_ranks(model: ModelConfig) -> None:
    ramp = run_of(
        gradient_accumulation_steps=32, batch_ramp=f"[[0, 8], [{2048 * 8 * 50}, 32]]", max_steps=100
    )
    plain = run_of(gradient_accumulation_steps=32)
    found = set(frames(ramp, model, 16, 32))
    assert found == {
        frame
        for frame in frames(plain, model, 16, 32)
        if 8 % (frame.micro_batch * frame.data * (frame.pipeline if frame.virtual > 1 else 1)) == 0
    }
    assert {frame.data for frame in found} == {1, 2, 4, 8}
    # 50 steps of 8 samples and 50 of 32 are the samples of 62.5 of the largest.
    frame, machine = min(found, key=repr), load_machine("a100-80g")
    with_ramp, without = (
        Planner(run, model, machine, AnalyticProgram()).plan(frame) for run in (ramp, plain)
    )
    assert with_ramp.run_seconds == pytest.approx(0.625 * without.run_seconds)


def test_a_ramp_of_lengths_shortens_the_run_by_its_steps(
    run: RunConfig, model: ModelConfig, machine: Machine
) -> None:
    tokens = 8 * 2048
    ramp = run_of(length_ramp=f"[[0, 512], [{30 * tokens - 1}, 1024], [{40 * tokens}, 2048]]")
    layout = own_layout(run, 1)[0]

    def step(length: int) -> float:
        """Of as many tokens in sequences of that length."""
        cut = replace(layout, micro_batch=layout.micro_batch * 2048 // length)
        planner = Planner(run_of(max_seq_length=length), model, machine, AnalyticProgram())
        return planner.plan(cut).step.total

    plan = Planner(ramp, model, machine, AnalyticProgram()).plan(layout)
    assert step(512) < step(1024) < step(2048) == plan.step.total
    whole = 30 * step(512) + 10 * step(1024) + 60 * step(2048)
    assert plan.run_seconds == pytest.approx(whole)


@pytest.mark.parametrize("room", [1.0, 0.15])
def test_the_search_finds_the_best_of_all(run: RunConfig, model: ModelConfig, room: float) -> None:
    machine = load_machine("a100-80g")
    machine = replace(machine, memory=machine.memory * room)
    program = AnalyticProgram()
    planner = Planner(run, model, machine, program)
    plans = [planner.plan(layout) for layout in everything(run, model, 4, 8)]
    fitting = [plan for plan in plans if total(plan.memory) <= machine.memory]
    assert len(fitting) > 5
    assert room == 1.0 or len(fitting) < len(plans)
    best = sorted(plan.step.total for plan in fitting)[:5]
    found = search(run, model, machine, program, devices=4, samples=8)
    assert found.considered == len(plans)
    assert [plan.step.total for plan in found.plans] == pytest.approx(best, rel=1e-9)
    assert all(total(plan.memory) <= machine.memory for plan in found.plans)
    assert all(one.step.total <= other.step.total for one, other in pairwise(found.plans))


def test_where_nothing_fits_the_least_is_told(run: RunConfig, model: ModelConfig) -> None:
    machine = replace(load_machine("a100-80g"), memory=1e9)
    found = search(run, model, machine, AnalyticProgram(), devices=4, samples=8)
    assert found.plans == ()
    assert found.smallest is not None
    assert total(found.smallest.memory) > machine.memory


def test_many_devices_take_few_traces() -> None:
    run = run_of(num_hidden_layers=32, gradient_accumulation_steps=2)
    program = AnalyticProgram()
    machine = load_machine("a100-80g")
    found = search(run, model_config_of(run), machine, program, devices=1024, samples=2048)
    assert found.considered > 50_000
    assert program.traced < 200


def test_a_large_pipeline_is_told_by_small_ones(machine: Machine) -> None:
    run = run_of(num_hidden_layers=320)
    layout = replace(own_layout(run, 1)[0], pipeline=32, virtual=10, accumulation=64)
    program = AnalyticProgram()
    Planner(run, model_config_of(run), machine, program).plan(layout)
    # Of the first, the last and one between: three chunks, and four, two rounds each.
    assert program.traced == 6
    assert program.passes == (3 + 4) * (2 * 4 + 3 * 6 + 2 * 4)


@pytest.fixture
def machine() -> Machine:
    return load_machine("a100-80g")


def test_a_plan_adds_up(run: RunConfig, model: ModelConfig, machine: Machine) -> None:
    layout, samples = own_layout(run, 4)
    plan = Planner(run, model, machine, AnalyticProgram()).plan(layout)
    step = plan.step.total
    assert plan.tokens_per_step == samples * 2048 == 32 * 2048
    assert plan.tokens_per_second_per_device == pytest.approx(32 * 2048 / step / 4)
    flops = model.flops_per_token(2048) * plan.tokens_per_second_per_device
    assert plan.mfu == pytest.approx(flops / 312e12)
    assert plan.run_seconds == pytest.approx(100 * step)
    assert plan.device_hours == pytest.approx(100 * step * 4 / 3600)
    assert plan.checkpoint_bytes == 14 * model.parameter_count()
    # Each rank copies 14 bytes a parameter; every 50 steps.
    assert plan.save_seconds == pytest.approx(14 * model.parameter_count() / 32e9)
    assert plan.step.seconds["saves"] == pytest.approx(plan.save_seconds / 50)


def test_a_deep_stage_is_that_of_its_blocks(machine: Machine) -> None:
    """Of 32 blocks few are traced; the time is that of all of them."""
    run = run_of(num_hidden_layers=32)
    model = model_config_of(run)
    layout = replace(own_layout(run, 4)[0], pipeline=2, virtual=2, data=2)
    program = AnalyticProgram()
    plan = Planner(run, model, machine, program).plan(layout)
    few = Planner(run, replace(model, num_hidden_layers=16), machine, program).plan(layout)
    more = Planner(run, replace(model, num_hidden_layers=48), machine, program).plan(layout)
    middle = (few.step.total + more.step.total) / 2
    assert plan.step.total == pytest.approx(middle, rel=1e-6)
    assert layout_of(run_with(run, layout), layout.degrees) == layout
