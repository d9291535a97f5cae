"""What every command says of a path that isn't there, or that can't be meant."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llm_pretrain.cli import main
from llm_pretrain.data import IndexedWriter

ABSENT = [
    ("inspect absent", "PREFIX"),
    ("inspect data --model_name_or_path absent", "--model_name_or_path"),
    ("inspect data --tokenizer_name_or_path absent", "--tokenizer_name_or_path"),
    ("split absent --shares 1,1", "PREFIX"),
    ("merge absent --output_prefix o", "INPUT"),
    ("merge --input absent --output_prefix o", "--input"),
    ("convert absent o --to paddlenlp", "SOURCE"),
    ("preprocess --model_name absent --input_path i --output_prefix o", "--model_name"),
    ("preprocess --model_name_or_path tok --input_path absent --output_prefix o", "--input_path"),
]
UNSET = [
    ("inspect $ABSENT", "PREFIX"),
    ("inspect d --model_name_or_path $ABSENT", "--model_name_or_path"),
    ("split $ABSENT --shares 1,1", "PREFIX"),
    ("split d --shares 1,1 --output_prefix $ABSENT", "--output_prefix"),
    ("merge $ABSENT --output_prefix o", "INPUT"),
    ("merge d --output_prefix $ABSENT", "--output_prefix"),
    ("merge --input $ABSENT --output_prefix o", "--input"),
    ("convert $ABSENT o --to paddlenlp", "SOURCE"),
    ("convert s $ABSENT --to paddlenlp", "DESTINATION"),
    ("preprocess --model_name $ABSENT --input_path i --output_prefix o", "--model_name"),
    ("preprocess --model_name t --input_path $ABSENT --output_prefix o", "--input_path"),
    ("preprocess --model_name t --input_path i --output_prefix $ABSENT", "--output_prefix"),
    ("check $ABSENT", "CONFIG"),
]


@pytest.fixture
def folder(
    tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: object
) -> Path:
    """The current folder, which is HOME too: `data` is token data, `tok` a tokenizer."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("ABSENT", raising=False)
    with IndexedWriter(tmp_path / "data", np.uint16) as writer:
        writer.add_document([1, 2, 3])
        writer.add_document([4])
    (tmp_path / "tok").symlink_to(tokenizer)
    (tmp_path / "text.jsonl").write_text('{"text": "a b"}\n', encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(("words", "argument"), ABSENT)
def test_what_is_not_there_is_named_by_argument_and_value(
    folder: Path, capsys: pytest.CaptureFixture[str], words: str, argument: str
) -> None:
    assert main(words.split()) == 1
    error = capsys.readouterr().err
    assert f"{argument} " in error or f"{argument}: " in error
    assert " absent" in error


@pytest.mark.parametrize(("words", "argument"), UNSET)
def test_a_variable_that_is_not_set_is_named_by_argument(
    folder: Path, capsys: pytest.CaptureFixture[str], words: str, argument: str
) -> None:
    assert main(words.split()) in (1, 2)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "ABSENT" in line]
    assert argument in line
    assert "ABSENT is not set" in line


def test_every_command_knows_a_home(folder: Path) -> None:
    for words in (
        "inspect ~/data --model_name_or_path ~/tok",
        "split ~/data --shares 1,1 --output_prefix ~/part",
        "merge ~/part_0 --input ~/part_1 --output_prefix ~/whole",
        "preprocess --model_name ~/tok --input_path ~/*.jsonl --output_prefix ~/new --workers 1",
    ):
        assert main(words.split()) == 0
    names = {path.name for path in folder.iterdir()}
    assert {"part_0.bin", "part_1.bin", "whole.bin", "new.bin"} <= names
    assert not (folder / "~").exists()
