from __future__ import annotations

from pathlib import Path

import pytest

from llm_pretrain.config import ConfigError, load_run_config

LEAST_JSON = '"output_dir": "o", "input_dir": "d", "max_steps": 1, "do_train": 1'


def problems_of(path: Path) -> list[str]:
    with pytest.raises(ConfigError) as error:
        load_run_config(path)
    return list(error.value.problems)


def write(tmp_path: Path, name: str, text: str) -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_json_and_yaml_mean_the_same(tmp_path: Path) -> None:
    from_json = load_run_config(
        write(
            tmp_path,
            "run.json",
            f'{{{LEAST_JSON}, "learning_rate": 3e-05, "evaluation_strategy": "no",\n'
            ' "no_recompute_layers": [1, 0], "tokenizer_name_or_path": null}',
        )
    )
    from_yaml = load_run_config(
        write(
            tmp_path,
            "run.yaml",
            "output_dir: o\ninput_dir: d\nmax_steps: 1\ndo_train: 1\nlearning_rate: 3e-05\n"
            "evaluation_strategy: no\nno_recompute_layers: [1, 0]\ntokenizer_name_or_path:\n",
        )
    )
    assert from_json.training == from_yaml.training
    assert from_json.model == from_yaml.model
    assert from_json.data == from_yaml.data


@pytest.mark.parametrize(
    ("text", "value"),
    [("3e-5", 3e-5), ("1.5E-4", 1.5e-4), (".5", 0.5), ("1", 1.0), ("1.", 1.0), ("2e3", 2000.0)],
)
def test_numbers_in_yaml(tmp_path: Path, text: str, value: float) -> None:
    least = "{output_dir: o, input_dir: d, max_steps: 1, do_train: true, min_learning_rate: 0, "
    run = load_run_config(write(tmp_path, "run.yml", least + f"learning_rate: {text}}}"))
    assert run.training.learning_rate == value


def test_an_editors_schema_key_is_left_alone(tmp_path: Path) -> None:
    run = load_run_config(write(tmp_path, "a.json", f'{{"$schema": "s.json", {LEAST_JSON}}}'))
    assert run.notices == ()


def test_texts_in_yaml_that_look_like_something_else(tmp_path: Path) -> None:
    text = "{output_dir: 2024-01-31, input_dir: no, split: 8:1, max_steps: 1, do_train: 1}"
    run = load_run_config(write(tmp_path, "run.yaml", text))
    assert run.training.output_dir == "2024-01-31"
    assert (run.data.input_dir, run.data.split) == ("no", "8:1")


def test_lines_are_found_among_odd_texts(tmp_path: Path) -> None:
    text = '{"output_dir": "a\\": b",\n\t":":1,\t":k": "v",\n"seed": "x"}'
    problems = problems_of(write(tmp_path, "a.json", text))
    assert any(problem.startswith("a.json, line 3: seed:") for problem in problems)


def test_a_missing_file(tmp_path: Path) -> None:
    assert problems_of(tmp_path / "none.json") == [
        f"{tmp_path / 'none.json'}: there is no such file"
    ]


def test_a_directory(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path)
    assert "is a directory" in problem


def test_another_kind_of_file(tmp_path: Path) -> None:
    (problem,) = problems_of(write(tmp_path, "run.toml", "a = 1"))
    assert ".json, .yaml or .yml" in problem


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(b"\xff\xfe\x00")
    (problem,) = problems_of(path)
    assert "not a text file" in problem


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", '{"max_steps": 1,\n}', "a.json, line 2, column 1: this is not JSON"),
        ("a.json", "", "a.json, line 1, column 1: this is not JSON"),
        ("a.json", "[1]", "this file holds a list"),
        ("a.json", "3", "this file holds a int"),
        ("a.json", "[" * 100_000, "nested too deeply"),
        ("a.json", '{"seed": ' + "9" * 5000 + "}", "this is not JSON"),
        ("a.yaml", "max_steps: [1\nseed: 2\n", "a.yaml, line 2"),
        ("a.yaml", "", "this file holds nothing"),
        ("a.yaml", "- a", "this file holds a list"),
        ("a.yaml", "max_steps: !!python/name:os.system x", "could not determine a constructor"),
        ("a.yaml", "seed: &a [*a]", "recursive"),
        ("a.yaml", "seed: " + "[" * 10_000, "nested too deeply"),
        ("a.yaml", "a: 1\n---\nb: 2", "a.yaml, line 2"),
    ],
)
def test_a_malformed_file(tmp_path: Path, name: str, text: str, message: str) -> None:
    (problem,) = problems_of(write(tmp_path, name, text))
    assert message in problem
    assert "\n" not in problem


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", f'{{{LEAST_JSON},\n"seed": 1,\n"seed": 1}}'),
        ("a.yaml", f"{{{LEAST_JSON},\n seed: 1,\n seed: 1}}"),
    ],
)
def test_a_key_given_twice(tmp_path: Path, name: str, text: str) -> None:
    (problem,) = problems_of(write(tmp_path, name, text))
    assert problem == f"{name}, line 3: seed is given twice (first in line 2); keep one"
