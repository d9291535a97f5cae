"""`llm-pretrain generate` from a run's folder, its checkpoints, and what is none."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from llm_pretrain.cli import main
from tests.launching import RUN_PRETRAIN, run_job
from tests.small_runs import small_config, write_config, write_data, write_model, write_tokenizer


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two tensor-parallel processes, with a checkpoint on the way."""
    folder = tmp_path_factory.mktemp("run")
    config = small_config(
        write_model(folder / "model"),
        write_data(folder / "data"),
        folder / "out",
        tokenizer_name_or_path=str(write_tokenizer(folder / "tokenizer")),
        tensor_parallel_degree=2,
        learning_rate=1e-2,
        max_steps=4,
        save_strategy="steps",
        save_steps=2,
    )
    file = write_config(folder / "run.json", config)
    run_job(RUN_PRETRAIN, file, processes=2, log_dir=folder / "log")
    return folder / "out"


def texts(capsys: pytest.CaptureFixture[str], directory: Path, *more: str) -> list[str]:
    words = ["--prompt", "7", "10", "--max_new_tokens", "5", *more]
    assert main(["generate", str(directory), *words]) == 0
    return capsys.readouterr().out.splitlines()


def test_from_a_run_and_its_checkpoints(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    greedy = ("--temperature", "0")
    at_the_end = texts(capsys, run, *greedy)
    assert [len(text.split()) for text in at_the_end] == [6, 6]
    assert [text.split()[0] for text in at_the_end] == ["7", "10"]
    last = run / "checkpoint-4"
    assert texts(capsys, last, *greedy) == at_the_end
    # A run that has not ended holds checkpoints alone.
    shutil.copytree(last, tmp_path / "checkpoint-4")
    shutil.copytree(run / "checkpoint-2", tmp_path / "checkpoint-2")
    assert texts(capsys, tmp_path, *greedy) == at_the_end


@pytest.mark.parametrize("is_cut_off", [True, False])
def test_a_damaged_newest_checkpoint_is_said(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], is_cut_off: bool
) -> None:
    for name in ("checkpoint-2", "checkpoint-4"):
        shutil.copytree(run / name, tmp_path / name)
    expected = texts(capsys, run / "checkpoint-2", "--temperature", "0")
    weights = tmp_path / "checkpoint-4" / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] if is_cut_off else content[:-1] + bytes([content[-1] ^ 1]))
    words = [str(tmp_path), "--prompt", "7", "10", "--max_new_tokens", "5", "--temperature", "0"]
    assert main(["generate", *words]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == expected
    damage, choice = err.splitlines()
    assert damage.startswith(str(weights))
    assert damage.endswith("that checkpoint is passed over.")
    assert choice == f"The model is that of {tmp_path / 'checkpoint-2'}."
    shutil.rmtree(tmp_path / "checkpoint-2")
    assert main(["generate", *words]) == 1
    assert f"{tmp_path} holds no whole checkpoint: {weights}" in capsys.readouterr().err


def test_draws_by_the_seed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, again, other = (
        texts(capsys, run, "--temperature", "2", "--seed", seed) for seed in ("1", "1", "2")
    )
    assert first == again != other


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prompt", ""], "holds no token"),
        (["--prompt", "7", "--tokenizer_name_or_path", "nowhere"], "nowhere is not a directory"),
        (["--prompt", "7", "--device", "abacus"], "Paddle has no abacus here"),
    ],
)
def test_what_is_wrong(
    run: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", str(run), *words]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prompt", "\udcff"], "'\\udcff' is no text in utf-8"),
        (["--temperature", "nan"], "nan is not a finite number from 0 on"),
        (["--temperature", "warm"], "'warm' is not a number"),
        (["--top_p", "0"], "nothing is left to draw from"),
        (["--max_new_tokens", "few"], "'few' is not a whole number"),
    ],
)
def test_wrong_numbers_are_told_before_a_model_is_read(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", "nowhere", "--prompt", "a", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_device_that_is_not_there_is_said(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", str(run), "--prompt", "7", "--device", "xpu"]) == 0
    assert "device: xpu has no effect" in capsys.readouterr().err


def test_a_folder_without_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", str(tmp_path), "--prompt", "a"]) == 1
    assert "holds no model: expected is a directory with config.json" in capsys.readouterr().err
