from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from llm_pretrain.cli import main
from llm_pretrain.data import IndexedWriter
from llm_pretrain.data.preprocess import load_tokenizer
from llm_pretrain.machine.language import VARIABLE
from llm_pretrain.machine.terminal import columns_of


@pytest.fixture
def prefix(tokenizer: Path, tmp_path: Path) -> Path:
    """20 documents of one token, 5 of six, and one of 70."""
    (token,) = load_tokenizer(tokenizer).encode("b")
    with IndexedWriter(tmp_path / "x", np.uint16) as writer:
        for length in [1] * 20 + [6] * 5 + [70]:
            writer.add_document([token] * length)
    return tmp_path / "x"


def test_what_is_printed(prefix: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(prefix), "--model_name_or_path", str(tokenizer)]) == 0
    out = capsys.readouterr().out
    assert "26 documents, 26 sequences, 120 tokens of type uint16" in out
    assert "1 to 70, 4.6 on average" in out
    assert '  document 0: "b"\n' in out
    assert f'  document 25: "{"b" * 60}" …\n' in out
    assert "every id is one of the tokenizer's" in out
    bars = [" ".join(line.split()) for line in out.splitlines() if "% of the tokens" in line]
    assert bars[0] == f"1 to 1 {'#' * 40} 20 documents, 16.7% of the tokens"
    assert bars[2] == f"4 to 7 {'#' * 10} 5 documents, 25.0% of the tokens"
    assert bars[6] == "64 to 127 ## 1 documents, 58.3% of the tokens"
    assert len(bars) == 7


def test_rows_in_chinese_line_up(
    prefix: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "zh")
    assert main(["inspect", str(prefix)]) == 0
    out = capsys.readouterr().out
    assert "26 篇文档，26 个序列，120 个 token，类型 uint16" in out
    rows = [line for line in out.splitlines() if "占 token 的" in line]
    assert " ".join(rows[0].split()) == f"1 到 1 {'#' * 40} 20 篇文档，占 token 的 16.7%"
    assert len(rows) == 7
    assert len({columns_of(row) for row in rows}) == 1


def test_lines_fit_a_terminal(
    prefix: Path,
    tokenizer: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    for columns in ("60", "80"):
        monkeypatch.setenv("COLUMNS", columns)
        words = ["inspect", str(prefix), "--model_name_or_path", str(tokenizer), "--documents", "1"]
        assert main(words) == 0
        lines = capsys.readouterr().out.splitlines()
        # A path is kept whole.
        assert max(len(line) for line in lines if str(prefix) not in line) <= int(columns)


def test_an_id_beyond_the_vocabulary_fails(
    prefix: Path, tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with IndexedWriter(tmp_path / "y", np.uint16) as writer:
        writer.add_document([1, 50000])
    words = ["inspect", str(tmp_path / "y"), "--model_name_or_path", str(tokenizer)]
    assert main(words) == 1
    printed = capsys.readouterr()
    assert "holds the token id 50000, and the tokenizer's largest is" in printed.err
    assert "every id" not in printed.out


def test_without_a_tokenizer_ids_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with IndexedWriter(tmp_path / "y", np.uint16) as writer:
        writer.add_document([1, 50000])
    assert main(["inspect", str(tmp_path / "y"), "--documents", "1"]) == 0
    assert "document 0: 1 50000\n" in capsys.readouterr().out


def test_damage_fails_and_is_named(prefix: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bin_ = prefix.with_name("x.bin")
    bin_.write_bytes(bin_.read_bytes()[:-2])
    assert main(["inspect", str(prefix)]) == 1
    assert f"{bin_} is truncated" in capsys.readouterr().err
