from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_pretrain.config import ConfigError, keys, load_command_line, load_run_config

LEAST = ["--output_dir", "out", "--input_dir", "data", "--max_steps", "10", "--do_train"]


def test_command_line_wins_over_file_wins_over_default(load) -> None:
    run = load("--learning_rate", "2e-4", learning_rate=1e-4, weight_decay=0.1)
    assert run.training.learning_rate == 2e-4
    assert run.training.weight_decay == 0.1
    assert run.training.adam_beta1 == 0.9
    assert run.sources["learning_rate"] == "command line"
    assert run.sources["weight_decay"] == "run.json"
    assert run.sources["adam_beta1"] == "default"
    assert set(run.sources) == set(keys.OWNER)


def test_a_derived_value_says_from_what(load) -> None:
    run = load(do_eval=True, logging_steps=7)
    assert run.training.evaluation_strategy == "steps"
    assert run.training.eval_steps == 7
    assert run.training.decay_steps == 100
    assert run.sources["eval_steps"] == "from logging_steps"
    assert run.sources["evaluation_strategy"] == "from do_eval"


def test_command_line_alone() -> None:
    run = load_command_line(LEAST)
    assert run.training.max_steps == 10
    assert run.sources["max_steps"] == "command line"


def test_a_file_and_a_command_line(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text("output_dir: out\ninput_dir: data\nmax_steps: 3\ndo_train: true\n")
    run = load_command_line([str(path), "--max_steps=4"])
    assert run.training.max_steps == 4
    assert run.sources["output_dir"] == "small.yaml"


def test_an_unknown_key_names_the_nearest(problems) -> None:
    (problem,) = problems(tensor_paralel_degree=2)
    assert problem.startswith("run.json, line 6: tensor_paralel_degree: ")
    assert "did you mean tensor_parallel_degree?" in problem


def test_an_unknown_key_like_no_other_points_to_the_schema(problems) -> None:
    (problem,) = problems(zzzz=2)
    assert "check --schema" in problem


def test_an_unknown_key_on_the_command_line(problems) -> None:
    (problem,) = problems("--max_step", "3")
    assert problem == "command line: max_step: there is no such key; did you mean max_steps?"


def test_all_problems_are_told_together(problems) -> None:
    found = problems("--seed", "x", learning_rat=1, weight_decay="much", fp16=1, bf16=1)
    assert len(found) == 4
    for key in ("learning_rat", "weight_decay", "seed", "fp16"):
        assert any(key in problem for problem in found)


def test_a_misspelt_key_is_not_told_as_missing_too(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text('{"output_dir": "o", "input_dirs": "d", "max_steps": 1, "do_train": 1}')
    with pytest.raises(ConfigError) as error:
        load_run_config(path)
    assert len(error.value.problems) == 1


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("max_steps", "many", "'many' is not a whole number"),
        ("max_steps", 1.5, "1.5 is not a whole number"),
        ("max_steps", True, "True is not a whole number"),
        ("max_steps", None, "None is not a whole number"),
        ("learning_rate", "fast", "'fast' is not a number"),
        ("learning_rate", [1], "[1] is not a number"),
        ("learning_rate", float("nan"), "finite"),
        ("do_train", "maybe", "'maybe' is not a switch"),
        ("do_train", "2", "2 is not a switch"),
        ("max_steps", "1.5", "1.5 is not a whole number"),
        ("max_steps", "", "'' is not a whole number"),
        ("tensor_parallel_degree", "0", "0 is not a degree"),
        ("do_train", 2, "2 is not a switch"),
        ("output_dir", 3, "3 is not a text"),
        ("output_dir", "a\0b", "holds control characters"),
        ("output_dir", "\ud800", "holds control characters"),
        ("seed", 10**4000, "is too large"),
        ("output_dir", "", "at least 1 character"),
        ("input_dir", ["a"], "['a'] is not a text"),
        ("no_recompute_layers", 3, "3 is not a list"),
        ("no_recompute_layers", [-1], "layers are numbered from 0"),
        ("recompute_granularity", "half", "'full', 'full_attn', 'core_attn' or ''"),
        ("lr_scheduler_type", "polynomial", "'inverse_sqrt' or 'warmup_stable_decay'"),
        ("decay_ratio", 0, "greater than 0"),
        ("eval_data", ["a"], "['a'] is no set of names and paths"),
        ("eval_data", {"my web": "a"}, "'my web' is no name"),
        ("eval_data", {"web": " "}, "web has no path"),
        ("data_stages", [], "[] is no list of stages"),
        ("data_stages", "data/web", "'data/web' is no list of stages"),
        ("data_stages", ["data/web"], "stage 1, 'data/web', has neither until nor blend"),
        ("data_stages", [{"blend": "a", "weight": 1}], "stage 1: 'weight' is no key of it"),
        ("data_stages", [{"until": 5}], "stage 1 has no blend"),
        ("data_stages", [{"blend": " "}], "stage 1 has no blend"),
        ("data_stages", [{"blend": "a"}, {"blend": "b"}], "stage 1 has no until, which only"),
        ("data_stages", [{"until": "x", "blend": "a"}], "stage 1: until is 'x', which is no num"),
        ("data_stages", [{"until": 0, "blend": "a"}], "stage 1: until is 0, which is not above 0"),
        (
            "data_stages",
            [{"until": 2e9, "blend": "a"}, {"until": 1e9, "blend": "b"}],
            "stage 2: until is 1,000,000,000, which is not above 2,000,000,000, where stage 1 ends",
        ),
        ("data_stages", [{"blend": "$NO_SUCH/web"}], "variable NO_SUCH is not set"),
        ("optim", "adafactor", "'adamw'"),
        ("evaluation_strategy", "often", "'no', 'steps' or 'epoch'"),
        ("save_strategy", "often", "'no', 'steps' or 'epoch'"),
        ("data_impl", "lazy", "'mmap'"),
        ("device", "npus", "did you mean npu?"),
        ("report_to", "paper", "visualdl, tensorboard, wandb, mlflow, swanlab, all, none"),
        ("sharding", "stage4", "stage1, stage2, stage3"),
        ("sharding", "offload", "needs a stage beside it"),
        ("tensor_parallel_degree", 0, "0 is not a degree"),
        ("tensor_parallel_degree", -2, "-2 is not a degree"),
        ("gradient_accumulation_steps", 0, "greater than 0"),
        ("per_device_train_batch_size", 0, "greater than 0"),
        ("per_device_eval_batch_size", -1, "greater than 0"),
        ("eval_iters", 0, "greater than 0"),
        ("max_seq_length", 0, "greater than 0"),
        ("weight_decay", -0.1, "greater than or equal to 0"),
        ("fp16_opt_level", "O3", "'O0', 'O1' or 'O2'"),
        ("batch_ramp", [[5, 2]], "rise from 0"),
        ("batch_ramp", [[0, 2], [9, 3], [5, 4]], "rise from 0"),
        ("batch_ramp", [[0, 0]], "1 sample or more"),
        ("length_ramp", [[5, 2]], "rise from 0"),
        ("length_ramp", [[0, 0]], "a sequence has 1 token or more"),
        ("skip_data_intervals", [[5, 2]], "[5, 2] is no interval"),
        ("tensor_parallel_config", "sync_params", "did you mean sync_param?"),
        ("pipeline_parallel_config", 7, "7 is not a list of option names"),
        ("sharding_parallel_config", "fast", "unknown option 'fast'"),
        ("hybrid_parallel_topo_order", "tp_first", "'pp_first' or 'sharding_first'"),
    ],
)
def test_a_wrong_value_names_file_line_key_and_what_would_be_right(
    problems, key: str, value: object, message: str
) -> None:
    (problem,) = problems(**{key: value})
    assert problem.startswith("run.json, line ")
    assert f": {key}: " in problem
    assert message in problem


@pytest.mark.parametrize(
    ("key", "written", "value"),
    [
        ("max_steps", "4", 4),
        ("learning_rate", "3e-5", 3e-5),
        ("do_eval", "True", True),
        ("do_eval", "0", False),
        ("bf16", "no", False),
        ("save_total_limit", "none", None),
        ("no_recompute_layers", "[2, 0]", (0, 2)),
        ("no_recompute_layers", "2 0", (0, 2)),
        ("no_recompute_layers", ["2", "0"], (0, 2)),
        ("skip_data_intervals", [["3", "5"]], ((3, 5),)),
        ("sharding", "1", "stage1"),
        ("evaluation_strategy", "no", "no"),
        ("output_dir", "3", "3"),
    ],
)
def test_a_file_may_hold_values_as_on_a_command_line(
    load, key: str, written: object, value: object
) -> None:
    assert getattr(load(**{key: written}).training, key) == value
    words = written if isinstance(written, list) else [written]
    if all(isinstance(word, str) for word in words):
        assert getattr(load(f"--{key}", *words).training, key) == value


def test_switches_are_true_and_1_alike(load) -> None:
    run = load(do_eval=1, fp16=True, recompute=0)
    assert (run.training.do_eval, run.training.fp16, run.training.recompute) == (True, True, False)


def test_two_spellings_with_two_values(problems) -> None:
    (problem,) = problems(sharding_degree=2, sharding_parallel_degree=4)
    assert "sharding_parallel_degree and sharding_degree are one key with two values" in problem


def test_values_that_are_replaced_are_told(load) -> None:
    run = load(do_eval=1, pipeline_parallel_degree=2, per_device_eval_batch_size=3)
    assert run.training.per_device_eval_batch_size == 8
    assert any(line.startswith("per_device_eval_batch_size: 8 in place") for line in run.notices)


def test_arguments_cannot_be_changed(load) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().training.max_steps = 3


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@settings(derandomize=True, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(keys.KNOWN)) | st.text(max_size=8), JSON))
def test_no_value_of_any_key_is_worse_than_a_configuration_error(values: dict[str, object]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "run.json"
        path.write_text(json.dumps(values), encoding="utf-8")
        with contextlib.suppress(ConfigError):
            load_run_config(path)


@settings(derandomize=True, deadline=None)
@given(st.lists(st.sampled_from([f"--{key}" for key in sorted(keys.KNOWN)]) | st.text(max_size=6)))
def test_no_command_line_is_worse_than_a_configuration_error(words: list[str]) -> None:
    with contextlib.suppress(ConfigError):
        load_run_config(None, words)


@pytest.mark.parametrize(
    ("given", "taken"),
    [("9400", 9400), ("0", 0), ("0.0.0.0:9400", "0.0.0.0:9400"), ("[::]:9400", "[::]:9400")],
)
def test_a_port_for_metrics_may_have_an_address(load, given: str, taken: int | str) -> None:
    assert load("--metrics_port", given).training.metrics_port == taken


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("metrics_port", 65536, "neither a port"),
        ("metrics_port", "localhost", "neither a port"),
        ("metrics_port", True, "neither a port"),
        ("alert_command", "tell 'me", "No closing quotation"),
        ("alert_command", " ", "names no program"),
        ("alert_url", "file:///etc/passwd", "no URL of http or https"),
        ("alert_url", "https://", "no URL of http or https"),
        ("alert_url", "http://host:99999/", "no URL of http or https"),
    ],
)
def test_who_is_told_must_be_reachable(problems, key: str, value: object, reason: str) -> None:
    (problem,) = problems(**{key: value})
    assert f"{key}: " in problem
    assert reason in problem
