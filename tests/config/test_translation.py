"""PaddleFormers' keys: each has its effect, or a line that says why not, or is refused."""

from __future__ import annotations

from typing import Any

import pytest

from llm_pretrain.config.foreign_keys import MEANINGS, ONLY
from llm_pretrain.config.parallel_options import FLAGS, INERT_OPTIONS, OPTIONS


def told(run: Any, key: str) -> list[str]:
    return [line for line in run.notices if line.startswith(f"{key}: ")]


@pytest.mark.parametrize("flag", FLAGS)
def test_a_flag_is_an_option(load, flag: str) -> None:
    key, option = FLAGS[flag]
    run = load(**{flag: True, key: ""})
    (line,) = told(run, flag)
    if option in INERT_OPTIONS[key]:
        assert getattr(run.training, key) == ()
        assert line == f"{flag}: no effect here: {INERT_OPTIONS[key][option]}"
    else:
        assert option in OPTIONS[key]
        assert getattr(run.training, key) == (option,)
        assert line == f"{flag}: read as the option {option} of {key}"
        assert run.sources[key] == "run.json"


def test_flags_and_options_add_up(load) -> None:
    run = load(
        stage1_overlap=True,
        sd_release_grads="1",
        sharding_parallel_config="enable_stage1_allgather_overlap",
    )
    assert run.training.sharding_parallel_config == (
        "enable_stage1_allgather_overlap",
        "enable_stage1_overlap",
        "enable_release_grads",
    )
    run = load(stage1_overlap=True, sharding_parallel_config=["enable_release_grads"])
    assert run.training.sharding_parallel_config == (
        "enable_release_grads",
        "enable_stage1_overlap",
    )


@pytest.mark.parametrize("value", [1, "1", "True", "yes"])
def test_a_flag_is_written_as_any_switch(load, value: object) -> None:
    options = load(stage2_overlap=value).training.sharding_parallel_config
    assert options == ("enable_stage2_overlap",)


def test_a_flag_that_is_false_adds_nothing(load) -> None:
    assert load(stage1_overlap=False).training.sharding_parallel_config == ()
    run = load("--stage1_overlap", "false", stage1_overlap=True)
    assert run.training.sharding_parallel_config == ()
    assert load("--stage1_overlap").training.sharding_parallel_config == ("enable_stage1_overlap",)


def test_a_flag_that_is_no_switch(problems) -> None:
    (problem,) = problems(stage1_overlap="often")
    assert problem.startswith("run.json, line 6: stage1_overlap: 'often' is not a switch")


@pytest.mark.parametrize("key", ONLY)
def test_a_value_that_says_what_is_done_anyway_is_told(load, key: str) -> None:
    values, reason = ONLY[key]
    for value in values:
        assert told(load(**{key: value}), key) == [f"{key}: no effect here: {reason}"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("stage", "SFT"),
        ("stage", "DPO"),
        ("fine_tuning", "LoRA"),
        ("lora", True),
        ("lora", "true"),
        ("use_moe", True),
        ("use_moe", 1),
        ("dataset_type", "iterable"),
        ("num_nextn_predict_layers", 1),
        ("weight_quantize_algo", "nf4"),
        ("compute_type", "fp8"),
        ("freeze_training", 1),
    ],
)
def test_another_training_is_refused_with_the_reason(problems, key: str, value: Any) -> None:
    (problem,) = problems(**{key: value})
    assert problem.startswith(f"run.json, line 6: {key}: {value!r} is not available")
    assert ONLY.get(key, ("", ""))[1] in problem


@pytest.mark.parametrize("value", ["pt", "Pt", "PT"])
def test_case_does_not_matter(problems, value: str) -> None:
    assert problems(stage=value) == []


@pytest.mark.parametrize(
    ("key", "value", "own", "meant"),
    [
        (key, value, own, meant)
        for key, meanings in MEANINGS.items()
        for value, (own, meant) in meanings.items()
    ],
)
def test_a_value_is_another_keys(load, key: str, value: str, own: str, meant: object) -> None:
    run = load(**{key: value})
    assert getattr(run.training, own) is meant
    assert told(run, key) == [f"{key}: {value} is read as {own} true"]
    run = load(f"--{own}", "false", **{key: value})
    assert getattr(run.training, own) is False
    assert told(run, key) == [f"{key}: no effect: {own} is given"]


@pytest.mark.parametrize(
    ("values", "meant"),
    [
        ({"train_dataset_path": "data/web"}, "data/web"),
        ({"train_dataset_path": "a,b"}, "1 a 1 b"),
        ({"train_dataset_path": "a, b", "train_dataset_prob": "0.8, 0.2"}, "0.8 a 0.2 b"),
    ],
)
def test_paths_of_training_data(load, values: dict[str, Any], meant: str) -> None:
    run = load("--dataset_type", "pretrain", input_dir=None, **values)
    assert run.data.input_dir == meant
    assert told(run, "train_dataset_path") == [f"train_dataset_path: read as input_dir {meant!r}"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train_dataset_path": "a.jsonl"}, "a.jsonl is text: make .bin and .idx files"),
        ({"train_dataset_path": "a,b", "train_dataset_prob": "1.0"}, "2 paths, but"),
    ],
)
def test_paths_that_are_no_training_data(problems, values: dict[str, Any], message: str) -> None:
    (problem,) = problems(input_dir=None, **values)
    assert problem.startswith("run.json, line 6: train_dataset_path: ")
    assert message in problem


def test_input_dir_counts_over_other_paths(load) -> None:
    run = load(train_dataset_path="web", train_dataset_prob="1.0")
    assert run.data.input_dir == "data"
    assert told(run, "train_dataset_path") == ["train_dataset_path: no effect: input_dir is given"]


@pytest.mark.parametrize(
    ("values", "recomputes"),
    [
        ({"recompute_granularity": "selective", "stage": "PT"}, True),
        ({"recompute_granularity": "full", "stage": "PT", "recompute": False}, False),
        ({"recompute_granularity": None, "stage": "PT"}, False),
        ({"stage": "PT"}, False),
        ({"recompute_granularity": "selective"}, False),
    ],
)
def test_what_is_recomputed_says_that_it_is(load, values: dict[str, Any], recomputes: bool) -> None:
    run = load(**values)
    assert run.training.recompute is recomputes
    assert bool([line for line in run.notices if "turns recompute on" in line]) is recomputes
    if values.get("recompute_granularity") == "selective":
        assert run.training.recompute_granularity == "core_attn"


def test_defaults_that_differ_are_told_in_one_line(load) -> None:
    (line,) = [line for line in load(stage="PT", adam_beta2=0.9).notices if "defaults" in line]
    assert "continue_training true (here false)" in line
    assert "weight_decay 0.1 (here 0)" in line
    assert "adam_beta2" not in line
    assert not [line for line in load(adam_beta2=0.9).notices if "defaults" in line]
