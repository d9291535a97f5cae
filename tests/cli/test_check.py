"""What `check` shows, and that it fits the terminal; a run begins with the same four lines."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llm_pretrain.cli import main
from llm_pretrain.machine.language import VARIABLE
from llm_pretrain.machine.terminal import columns_of
from tests.launching import RUN_PRETRAIN, run_job
from tests.small_runs import small_config, write_config, write_data, write_model, write_tokenizer


@pytest.fixture
def config(tmp_path: Path) -> Path:
    write_data(tmp_path / "data")
    write_model(tmp_path / "model")
    contents = small_config(tmp_path / "model", tmp_path / "data", tmp_path / "output")
    return write_config(tmp_path / "run.json", contents)


def check(capsys: pytest.CaptureFixture[str], *words: object, status: int = 0) -> str:
    """What `check` prints on both streams."""
    assert main(["check", *map(str, words)]) == status
    printed = capsys.readouterr()
    return printed.out + printed.err


def section(text: str, title: str) -> list[str]:
    """The lines of a section, each joined where it was wrapped."""
    body = re.search(rf"^{title}\n((?:  .*\n)+)", text, re.MULTILINE)
    return re.sub(r"\n    +", " ", body[1]).strip("\n").split("\n") if body else []


def test_a_mistyped_key_hides_no_wrong_degree(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    degree = ("--world_size", 2, "--tensor_parallel_degree", 3)
    text = check(capsys, config, *degree, "--max_seq_lenght", 64, status=1)
    assert "did you mean max_seq_length" in text
    assert "tensor_parallel_degree 3 needs 3 processes" in text


def test_four_lines_say_what_is_run(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = config.parent
    text = check(capsys, config, "--world_size", 2, "--tensor_parallel_degree", 2, "--seed", 7)
    model, weights, data, layout = (line.strip() for line in section(text, "RUN"))
    assert model == f"Model: llama, 164,416 parameters ({folder}/model)"
    assert weights == "Weights: random, from seed 7"
    assert re.fullmatch(
        rf"Data: [\d,]+ tokens, [\d,]+ to train on: \d\.\d\d epochs \({folder}/data\)", data
    )
    assert layout == "Layout: 2 processes = tensor 2"


def test_all_of_it_is_in_chinese(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "zh")
    monkeypatch.setenv("COLUMNS", "80")
    write_data(config.parent / "more")
    blend = f"0.7 {config.parent / 'data/text'} 0.3 {config.parent / 'more/text'}"
    ramp = ("--batch_ramp", "[[0, 2], [512, 4]]", "--do_eval", "--eval_iters", 1)
    schedule = ("--lr_scheduler_type", "warmup_stable_decay", "--warmup_steps", 2)
    plan = ("--gpu", "a100-80g", "--verbose")
    text = check(capsys, config, "--input_dir", blend, *ramp, *schedule, *plan, status=1)
    assert "得到的批是 16；把它设为 2" in re.sub("\n +", "", text)
    said = text.partition("\n机器\n")[2].partition("\n训练\n")[2]
    said = said.replace(str(config.parent), "").replace("token id", "")
    assert re.findall("[A-Za-z]{2,} [a-z]{2,}", said) == []
    head, *rows = re.findall(r"^  文档 .*划分$|^ .* (?:train|valid|test)$", text, re.MULTILINE)
    assert len(rows) == 3
    end = columns_of(head) - columns_of("划分")
    assert {columns_of(line[: re.search(r"\S+$", line).start()]) for line in rows} == {end}


def test_a_run_begins_with_the_lines_of_check_and_its_weights_serve_others(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = [line.strip() for line in section(check(capsys, config, "--max_steps", 1), "RUN")]
    console = run_job(
        RUN_PRETRAIN,
        config,
        *("--max_steps", 1, "--save_strategy", "steps", "--save_steps", 1),
        log_dir=tmp_path / "log",
    )
    begin = console.index("Model: ")
    assert console[begin:].split("\n")[:4] == expected

    output = tmp_path / "output"
    text = check(capsys, config, "--max_steps", 4)
    assert section(text, "RUN")[1] == f"  Weights: those of step 1 ({output}/checkpoint-1)"
    elsewhere = ("--model_name_or_path", output, "--output_dir", tmp_path / "next")
    text = check(capsys, config, *elsewhere, "--continue_training")
    assert section(text, "RUN")[1] == f"  Weights: 39 tensors in model.safetensors ({output})"
    assert "continue_training: not set" not in text
    text = check(capsys, config, *elsewhere)
    notice = f"continue_training: not set, so that the trained weights in {output} are not read"
    assert notice in " ".join(text.split())
    text = check(capsys, config, *elsewhere, "--continue_training", "false")
    assert "continue_training: not set" not in text
    (output / "model.safetensors").write_bytes(b"damaged")
    text = check(capsys, config, *elsewhere, "--continue_training", status=1)
    assert "model.safetensors: can't be read" in text


def test_much_evaluation_is_said(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """16 samples a step and 3 × as much arithmetic; 4 × 12 samples are a tenth of 20 × 16 × 3."""
    words = (config, "--do_eval", "--eval_steps", 5, "--per_device_eval_batch_size", 1)
    assert "arithmetic" not in check(capsys, *words, "--eval_iters", 24)
    text = " ".join(check(capsys, *words, "--eval_iters", 48).split())
    assert "evaluation, of 48 samples each time, is 17% of the run's arithmetic" in text


def test_a_lone_source_of_the_validation_set_is_said(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_data(config.parent / "more")
    folders = config.parent / "data/text", config.parent / "more/text"
    words = ("--input_dir", f"1 {folders[0]} 3 {folders[1]}", "--do_eval", "--eval_iters", 1)
    text = " ".join(check(capsys, config, *words, "--per_device_eval_batch_size", 1).split())
    assert f"the 1 samples of the validation set are all of {folders[1]}" in text


@pytest.fixture
def many(config: Path) -> Path:
    """300 pairs of files, all of the same bytes."""
    folder = config.parent / "many"
    folder.mkdir()
    for number in range(300):
        for ending in ("bin", "idx"):
            path = folder / f"a-corpus-with-a-long-name-{number:03}_text_document.{ending}"
            path.hardlink_to(config.parent / f"data/text.{ending}")
    return folder


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_300_files_and_all_the_rest_fit_the_screen(
    config: Path,
    many: Path,
    columns: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    words = (config, "--input_dir", many, "--tensor_parallel_config", "enable_mp_async_allreduce")
    text = check(capsys, *words, "--fp16", "--bf16", status=1)
    wide = [line for line in text.splitlines() if len(line) > columns]
    # What can't be broken is a path, or a key.
    assert all(len(line.split()) == 1 for line in wide), wide
    of_data = text[text.index("\nDATA\n") :].split("\n\n")[0]
    assert of_data.count("\n") <= 40
    assert "20 of 300 sources" in of_data
    everything = check(capsys, *words, "--verbose")
    assert everything.count("a-corpus-with-a-long-name") == 300
    assert "weight_decay" in everything
    assert "OMP_NUM_THREADS" in everything


def test_what_is_too_long_hangs_and_a_problem_is_one_line_where_there_is_no_terminal(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = "error: command line: --fp16: both are true, but a run has one precision; keep one"
    monkeypatch.setenv("COLUMNS", "50")
    main(["check", str(config), "--bf16", "--fp16"])
    printed = capsys.readouterr()
    notice = "\n  --world_size: not given; 1 is the fewest that\n    the degrees need\n"
    assert notice in printed.out
    assert printed.err.splitlines()[:2] == [problem[:49], f"  {problem[50:]}"]
    monkeypatch.delenv("COLUMNS")
    main(["check", str(config), "--bf16", "--fp16"])
    assert capsys.readouterr().err.splitlines()[0] == problem


def test_a_configuration_is_not_overwritten_by_the_record(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = config.read_text()
    text = check(capsys, config, "--output_dir", config.parent, status=1)
    assert "run.json is no record of a run" in text.replace("\n  ", " ")
    assert main(["train", str(config), "--output_dir", str(config.parent)]) == 1
    assert config.read_text() == before


def test_named_validation_of_another_vocabulary_or_too_short_is_refused(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = config.parent
    write_data(folder / "few", documents=1)
    evaluation = ("--do_eval", "--eval_data", f"few={folder}/few", "--max_seq_length", 4096)
    text = check(capsys, config, *evaluation, status=1).replace("\n  ", " ")
    assert "eval_data few: max_seq_length is 4096" in text
    assert "Add data or lower max_seq_length" in text
    other = ("--do_eval", "--eval_data", f"same={folder}/data", "--vocab_size", 3)
    text = check(capsys, config, *other, status=1).replace("\n  ", " ")
    assert "eval_data same: " in text
    assert "holds the token id" in text


def test_a_path_of_named_validation_that_is_not_there_is_of_its_set(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = config.parent / "nowhere"
    words = ("--do_eval", "--eval_data", f"web={missing}")
    error = f"error: eval_data web names {missing}, and there are no such files."
    assert error in check(capsys, config, *words, status=1).replace("\n  ", " ")
    assert main(["train", str(config), *words]) == 1
    said = capsys.readouterr().err.replace("\n  ", " ")
    assert error in said
    assert "input_dir" not in said


def test_prompts_that_cant_be_continued_are_refused(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = ("--sample_steps", 1, "--sample_prompts", "7", "8 9")
    text = check(capsys, config, *samples, status=1).replace("\n  ", " ")
    assert "sample_prompts: " in text
    tokenizer = write_tokenizer(config.parent / "tokenizer")
    known = ("--tokenizer_name_or_path", tokenizer)
    check(capsys, config, *samples, *known)
    text = check(capsys, config, *samples, "", *known, status=1)
    assert "sample_prompts: '' holds no token" in text


def test_what_mup_scales_is_told_and_what_it_cant_is_refused(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The model's is 64, the size of its heads 8.
    _, matrices, head = section(
        check(capsys, config, "--mup_base_hidden_size", 16), "LEARNING RATE"
    )
    blocks = "  muP: learning rate × 0.25, initial values × 0.5: attention.query, attention.key, "
    assert matrices.startswith(blocks)
    assert head == "  muP: learning rate × 0.25, initial values × 0.25: head"
    (_,) = section(check(capsys, config, "--mup_base_hidden_size", 64), "LEARNING RATE")
    fused = ("--mup_base_head_dim", 2, "--fuse_attention_qkv", True)
    text = check(capsys, config, *fused, status=1).replace("\n  ", " ")
    assert "error: mup_base_head_dim: the queries learn at another rate" in text
