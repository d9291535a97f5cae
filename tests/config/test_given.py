from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    "words", [["web=a/b", "code=c"], ["web=a/b code=c"], ['{"web": "a/b", "code": "c"}']]
)
def test_named_data_is_typed_as_words_or_as_json(load, words: list[str]) -> None:
    run = load("--do_eval", "--eval_data", *words)
    assert run.data.eval_data == {"web": "a/b", "code": "c"}


def test_switches_need_no_value(load) -> None:
    assert load("--do_eval", "--recompute").training.do_eval


@pytest.mark.parametrize("word", ["true", "True", "1", "yes", "t"])
def test_words_for_true(load, word: str) -> None:
    assert load("--fp16", word).training.fp16


@pytest.mark.parametrize("word", ["false", "False", "0", "no", "f"])
def test_words_for_false(load, word: str) -> None:
    assert not load(f"--do_eval={word}", do_eval=True).training.do_eval


def test_numbers(load) -> None:
    run = load("--max_steps", "1e3", "--learning_rate=3e-4", "--save_total_limit", "-1")
    assert run.training.max_steps == 1000
    assert run.training.learning_rate == 3e-4
    assert run.training.save_total_limit == -1


def test_a_text_stays_a_text(load) -> None:
    assert load("--output_dir", "2024").training.output_dir == "2024"
    assert load("--evaluation_strategy", "no").training.evaluation_strategy == "no"


def test_null(load) -> None:
    assert load("--save_total_limit", "None", save_total_limit=2).training.save_total_limit is None


def test_dashes_within_a_key(load) -> None:
    assert load("--max-steps", "5").training.max_steps == 5


@pytest.mark.parametrize("words", [["3", "1", "3"], ["3,1"], ["[3, 1]"]])
def test_lists(load, words: list[str]) -> None:
    assert load("--no_recompute_layers", *words).training.no_recompute_layers == (1, 3)


def test_a_list_of_one(load) -> None:
    assert load("--no_recompute_layers", "4").training.no_recompute_layers == (4,)


def test_lists_of_lists(load) -> None:
    run = load("--skip_data_intervals", "[[3, 5], [8, 9]]")
    assert run.training.skip_data_intervals == ((3, 5), (8, 9))


@pytest.mark.parametrize("words", [["sync_param sync_grad"], ["sync_param", "sync_grad"]])
def test_option_strings(load, words: list[str]) -> None:
    run = load("--tensor_parallel_config", *words)
    assert run.training.tensor_parallel_config == ("sync_param", "sync_grad")


def test_blended_data_without_quotes(load) -> None:
    assert load("--input_dir", "0.3", "a", "0.7", "b").data.input_dir == "0.3 a 0.7 b"


def test_a_key_given_twice_is_told_and_the_last_counts(load) -> None:
    run = load("--seed", "1", "--seed", "2")
    assert run.training.seed == 2
    assert any("seed: given twice" in line for line in run.notices)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--max_steps"], "--max_steps: needs a value"),
        (["--max_steps", "1", "2"], "takes one value, but has 2: 1 2"),
        (["--max_steps", "ten"], "command line: --max_steps: 'ten' is not a whole number"),
        (["--do_train", "maybe"], "--do_train: 'maybe' is not a switch"),
        (["--max_steps="], "--max_steps: '' is not a whole number"),
        (["stray"], "'stray' belongs to no key"),
        (["--eval_data", "web=a", "web=b", "--do_eval"], "'web web' has a name twice"),
        (["--eval_data", "a=0.7", "x", "--do_eval"], "'x' is not name=path; a path of several"),
        (["--batch_ramp", "[[0, 4.5]]"], "4.5 is not a whole number"),
        (["--report_to", "none", "wandb"], "names none and others"),
    ],
)
def test_what_is_wrong_on_the_command_line(problems, words: list[str], message: str) -> None:
    (problem,) = problems(*words)
    assert message in problem


@pytest.mark.parametrize(
    ("words", "prompts"),
    [
        (["The function returns"], ("The function returns",)),
        (["One, two", "2024"], ("One, two", "2024")),
        (["2024"], ("2024",)),
        (['["A list", "[1"]'], ("A list", "[1")),
        (["[1"], ("[1",)),
        (["def f(x):\n\treturn"], ("def f(x):\n\treturn",)),
    ],
)
def test_a_prompt_is_a_whole_text(load, words: list[str], prompts: tuple[str, ...]) -> None:
    run = load("--sample_steps", "1", "--sample_prompts", *words)
    assert run.training.sample_prompts == prompts
