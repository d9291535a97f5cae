"""The command as a person uses it: what it prints, and its exit status."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm_pretrain import __version__
from llm_pretrain.cli import main
from llm_pretrain.data import IndexedWriter

TINY = {
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration of a tiny model with data beside it, in which all is well."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(TINY), encoding="utf-8")
    data = tmp_path / "data"
    data.mkdir()
    with IndexedWriter(data / "text", np.uint16) as writer:
        for i in range(100):
            writer.add_document(np.arange(i, i + 50, dtype=np.uint16) % 64)
    values = {
        "model_name_or_path": str(model),
        "input_dir": str(data),
        "output_dir": str(tmp_path / "output"),
        "max_seq_length": 16,
        "max_steps": 10,
        "do_train": True,
        "do_eval": True,
        "use_fused_linear": True,
        "per_device_train_batch_size": 2,
        "tensor_parallel_degree": 2,
        "sharding": "stage1",
    }
    path = tmp_path / "run.json"
    path.write_text(json.dumps(values, indent=1), encoding="utf-8")
    return path


def change(config: Path, **values: Any) -> None:
    old = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps(old | values, indent=1), encoding="utf-8")


def test_check_prints_all_that_can_be_known(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(["check", str(config), "--world_size", "8", "--seed", "7", "--verbose"])
    out, err = capsys.readouterr()
    assert (status, err) == (0, "")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "max_steps 10 [run.json]" in lines
    assert "seed 7 [command line]" in lines
    assert "weight_decay 0 [default]" in lines
    assert "eval_steps 500 [from logging_steps]" in lines
    assert "Layout: 8 processes = sharding 4 × tensor 2" in lines
    assert "tensor groups: [0, 1] [2, 3] [4, 5] [6, 7]" in lines
    assert "sharding groups: [0, 2, 4, 6] [1, 3, 5, 7]" in lines
    assert any("41,248 parameters" in line for line in lines)
    assert any("= 8 samples = 128 tokens per step" in line for line in lines)
    assert "10 steps: 80 samples, 1,280 tokens in total" in lines
    assert "from 5e-05, linear down to 1e-05 at step 10" in lines
    assert any("100 documents, 5,000 tokens" in line for line in lines)
    assert any(line.startswith("use_fused_linear: no effect here") for line in lines)
    assert any(line.startswith("no tokenizer in") for line in lines)
    assert any(line.startswith("OMP_NUM_THREADS = ") for line in lines)


def test_check_writes_nothing(config: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    main(["check", str(config), "--world_size", "2"])
    assert sorted(tmp_path.rglob("*")) == before


def test_check_without_a_world_size_takes_the_fewest_processes(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(config)]) == 0
    assert "--world_size: not given; 2 is the fewest" in capsys.readouterr().out


def test_check_lists_every_problem(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(config, tensor_parallel_degree=16, continue_training=1, fp16=1, bf16=1)
    change(config, input_dir=str(config.parent / "none"))
    assert main(["check", str(config), "--world-size=16"]) == 1
    errors = capsys.readouterr().err
    for expected in (
        "fp16: both are true",
        "tensor_parallel_degree 16 does not divide the model's 8 attention heads",
        "is no directory with weights",
        "there are no such files",
        "4 problem(s) found",
    ):
        assert expected in errors


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--world_size", "3"], "the world size is 3"),
        (["--world_size", "0"], "--world_size: '0' is no number of processes"),
        (["--world_size", "9" * 5000], "is no number of processes"),
        (["--world_size", "999999999"], "a run has 1 to 1048576 processes"),
        (["--tensor_parallel_degree", "9" * 18], "a run has 1 to 1048576 processes"),
        (["--world_size"], "--world_size: '' is no number of processes"),
        (["--max_step", "3"], "did you mean max_steps?"),
        (["--model_name_or_path", "meta-llama/Llama-2-7"], "meta-llama/Llama-2-7b"),
        (["--max_steps", "-1"], "-1 is not a length"),
        (["--split", "0,1,1"], "split"),
        (["--vocab_size", "32"], "vocab"),
        (["--output_dir", __file__], "is a file"),
        (["--output_dir", __file__ + "/run"], "is a file"),
        (["--resume_from_checkpoint", "none"], "none is not a whole checkpoint"),
    ],
)
def test_check_fails_with_the_reason(
    config: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["check", str(config), *words]) == 1, capsys.readouterr()
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("folder", "message"),
    [("data", "set data_cache to a folder"), ("out", "output_dir")],
)
def test_check_notices_folders_that_can_not_be_written(
    config: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    folder: str,
    message: str,
) -> None:
    """Asked of the system, since root may write where the mode says no."""
    access = os.access
    (config.parent / "out").mkdir()
    blocked = config.parent / folder
    monkeypatch.setattr(os, "access", lambda path, mode: path != blocked and access(path, mode))
    assert main(["check", str(config), "--output_dir", str(config.parent / "out")]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "read-only" in error


def test_the_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--schema"]) == 0
    assert "max_steps" in json.loads(capsys.readouterr().out)["properties"]


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ([], 2, "usage: llm-pretrain"),
        (["--help"], 0, "usage: llm-pretrain"),
        (["chek"], 2, "there is no command 'chek'; did you mean check?"),
        (["Trian"], 2, "there is no command 'Trian'; did you mean train?"),
        (["version"], 2, "did you mean --version?"),
        (["run.json"], 2, "there is no command 'run.json'; did you mean train run.json?"),
        (["nonsense"], 2, "there is no command 'nonsense'\n"),
        (["check", "--help"], 0, "usage: llm-pretrain check"),
        (["train", "--help"], 0, "--learning_rate (5e-05)"),
        (["check", "none.json"], 1, "none.json: there is no such file"),
        (["merge", "a", "--output_prefx", "b", "--output_prefix", "c"], 2, "mean --output_prefix?"),
        (["inspect", "a", "--tokenizer_name_or_pth=b"], 2, "mean --tokenizer_name_or_path?"),
    ],
)
def test_words_and_exit_status(
    capsys: pytest.CaptureFixture[str], words: list[str], status: int, message: str
) -> None:
    assert main(words) == status
    printed = capsys.readouterr()
    assert message in printed.out + printed.err


def test_the_version_is_that_of_all_that_matters_and_does_not_import_paddle() -> None:
    program = (
        "import sys; from llm_pretrain.cli import main; status = main(['--version']); "
        "assert 'paddle' not in sys.modules; sys.exit(status)"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    python = ".".join(map(str, sys.version_info[:3]))
    form = rf"llm-pretrain {__version__}, paddlepaddle(-\w+)? [\w.]+, Python {python}\n"
    assert re.fullmatch(form, done.stdout), done.stdout


def test_python_runs_the_package_as_the_command() -> None:
    command = [sys.executable, "-m", "llm_pretrain", "trian"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 2
    assert "did you mean train?" in done.stderr


def test_check_does_not_import_paddle_and_exits_with_its_status(config: Path) -> None:
    program = (
        "import sys; from llm_pretrain.cli import main; status = main(sys.argv[1:]); "
        "assert 'paddle' not in sys.modules; sys.exit(status)"
    )
    command = [sys.executable, "-c", program, "check", str(config), "--world_size"]
    root = Path(__file__).parents[2]
    good = subprocess.run([*command, "2"], cwd=root, capture_output=True, text=True)
    assert good.returncode == 0, good.stderr
    bad = subprocess.run([*command, "3"], cwd=root, capture_output=True, text=True)
    assert bad.returncode == 1
    assert "Traceback" not in bad.stderr


def test_a_reader_that_leaves_and_a_terminal_without_signs_do_no_harm(config: Path) -> None:
    command = f"{sys.executable} -m llm_pretrain check {config} | head -n 1"
    finished = subprocess.run(
        command,
        shell=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
    )
    assert finished.stdout == "CONFIGURATION\n"
    assert "Error" not in finished.stderr


@pytest.mark.parametrize(
    "wrong",
    [{"learning_rat": 1}, {"use_moee": True}, {"save_steps": "often"}, {"max_steps": None}],
)
def test_a_wrong_key_hides_no_other_problem(
    config: Path, capsys: pytest.CaptureFixture[str], wrong: dict[str, Any]
) -> None:
    change(config, tensor_parallel_degree=3, input_dir="nowhere", num_hidden_layers=2, **wrong)
    change(config, model_name_or_path="no-model")
    assert main(["check", str(config), "--world_size", "8"]) == 1
    error = capsys.readouterr().err
    (key,) = wrong
    for problem in (
        f": {key}: ",
        "tensor_parallel_degree 3 needs 3 processes",
        "'no-model' is neither a directory",
        "input_dir names nowhere",
    ):
        assert problem in error
    assert "4 problem(s) found" in error


def test_a_wrong_value_is_not_checked_as_if_it_were_the_default(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(config, max_seq_length="long", model_name_or_path=3, output_dir=[])
    assert main(["check", str(config), "--world_size", "8"]) == 1
    out, error = capsys.readouterr()
    assert "3 problem(s) found" in error
    assert "tiny-random-llama:" not in out
    assert any(line.endswith("[unknown]") and "max_seq" in line for line in out.splitlines())


def test_output_that_can_not_be_written_is_a_sentence() -> None:
    command = f'"{sys.executable}" -m llm_pretrain check --schema > /dev/full'
    done = subprocess.run(
        ["bash", "-c", command],
        # As Python has it: readline, which pytest loads, sets COLUMNS behind its back.
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("llm-pretrain check: standard output: No space left on device")


@pytest.mark.parametrize("module", ["llm_pretrain.machine", "argparse", "pydantic"])
def test_an_interrupt_while_modules_are_imported_ends_the_program(module: str) -> None:
    interrupting = f"""
import os, runpy, signal, sys

class Interrupt:
    def find_spec(self, name, *_):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Interrupt())
sys.argv = ["-m", "check", "configs/llama/demo.json"]
runpy.run_module("llm_pretrain", run_name="__main__", alter_sys=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", interrupting], capture_output=True, text=True, check=False
    )
    assert done.returncode == 130
    assert done.stdout == ""
    assert done.stderr in ("", "llm-pretrain check: interrupted\n")
