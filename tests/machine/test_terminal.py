"""Lines that fit a terminal."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from llm_pretrain.machine.terminal import columns_of, fit, ljust, rjust, width, wrap

SENTENCE = "max_seq_length: 4096 is longer than the 2048 positions that the model was made for"


def test_a_line_goes_on_deeper() -> None:
    assert wrap("  " + SENTENCE, 60) == [
        "  max_seq_length: 4096 is longer than the 2048 positions",
        "    that the model was made for",
    ]


@pytest.mark.parametrize("columns", range(16, 100))
def test_no_line_is_wider_and_no_word_is_lost(columns: int) -> None:
    lines = wrap(SENTENCE, columns)
    assert max(map(len, lines)) <= columns
    assert " ".join(SENTENCE.split()) == " ".join(" ".join(lines).split())


def test_a_path_is_kept_whole_and_gets_the_room_that_it_needs() -> None:
    path = "/data/" + "corpus/" * 7 + "text"
    assert wrap(f"  input_dir             {path}  [run.json]", 64, 22) == [
        "  input_dir",
        f"    {path}",
        "    [run.json]",
    ]
    assert wrap(f"input_dir {path}", 20)[1:] == [f"  {path}"]


def test_a_page_keeps_its_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    page = "usage: a\n\n  b\n      what b does with all of its words"
    assert fit(page) == "usage: a\n\n  b\n      what b does with all of\n      its words"


def test_80_where_nothing_says_how_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    # Of this module alone: what reports the tests asks as well.
    sizes = SimpleNamespace(get_terminal_size=lambda _: os.terminal_size((0, 0)))
    monkeypatch.setattr("llm_pretrain.machine.terminal.shutil", sizes)
    assert width() == 80


def test_columns_of_a_table_line_up_in_both_languages() -> None:
    for cell in ("loss", "损失", "损失（loss）", "a cell that is wider than its column"):
        assert ljust(cell, 20).startswith(cell)
        assert rjust(cell, 20).endswith(cell)
        assert (
            columns_of(ljust(cell, 20)) == columns_of(rjust(cell, 20)) == max(columns_of(cell), 20)
        )


def test_no_line_of_chinese_ends_with_an_opening_sign() -> None:
    text = "Paddle 分配 71.3（max_memory_allocated），保留 77.3（max_memory_reserved）"
    for columns in range(24, 80):
        assert not any(line.endswith("（") for line in wrap(text, columns))
