from __future__ import annotations

import contextlib
import io
import os
import pty
import re
import subprocess
import sys

import pytest
from rich.cells import cell_len

from llm_pretrain.monitor.console import Console, duration, fitted_line, sparkline
from tests.launching import ROOT

STEP = {
    "loss": 2.75,
    "learning_rate": 3e-4,
    "global_norm": 0.45,
    "interval_tokens_per_second_per_device": 8012.4,
    "mfu": 0.41,
    "max_memory_allocated": 457.0,
}
# What a terminal is told: a control sequence, a line feed, a carriage return, or text to show.
TOLD = re.compile(r"\x1b\[[?\d;]*[a-zA-Z]|\n|\r|[^\x1b\n\r]+")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def screen(self) -> list[str]:
        """The rows as they stand, down to that of the cursor."""
        rows, row = [""], 0
        for told in TOLD.findall(self.getvalue()):
            if told == "\n":
                row += 1
                rows += [""] * (row == len(rows))
            elif told.endswith("A"):
                row -= int(told[2:-1])
            elif told == "\x1b[2K":
                rows[row] = ""
            elif told != "\r" and told[0] != "\x1b":
                rows[row] += told
        assert not any(rows[row + 1 :])
        return rows[: row + 1]

    def longest(self) -> int:
        """Characters of the longest text that was ever written to a row."""
        return max(len(told) for told in TOLD.findall(self.getvalue()) if told[0] != "\x1b")


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    return Terminal()


def step(number: int, **more: float | None) -> dict[str, float | int | None]:
    return {"global_step": number, **STEP, **more}


def test_a_file_gets_lines_with_the_time_left() -> None:
    stream = io.StringIO()
    times = iter([0.0, 20.0])
    console = Console(100, stream=stream, clock=lambda: next(times))
    console.step(step(10))
    console.step(step(20, mfu=None))
    first, second = stream.getvalue().splitlines()
    assert "progress: 10/100 (10.0%), time_left: ?" in first
    assert "mfu: 0.41" in first
    assert "mfu" not in second
    assert second.endswith("progress: 20/100 (20.0%), time_left: 2:40")


def test_the_pace_counts_steps_that_are_not_logged() -> None:
    stream = io.StringIO()
    times = iter([0.0, 1.0, 2.0])
    console = Console(10, stream=stream, clock=lambda: next(times))
    console.progressed(1, loss=3.0)
    console.progressed(2, loss=3.0)
    console.step(step(3))
    (line,) = stream.getvalue().splitlines()
    assert line.endswith("time_left: 0:07")


def test_a_loss_that_is_no_number_is_shown(terminal: Terminal) -> None:
    stream = io.StringIO()
    for where in (stream, terminal):
        console = Console(10, stream=where)
        console.step(step(1, loss=float("nan"), global_norm=float("inf")))
        console.close()
    assert " - loss: nan, " in stream.getvalue()
    assert "loss nan" in terminal.screen()[0]


def test_a_narrow_encoding_does_not_stop_the_run() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Console(10, stream=stream).message("curve ▁▂")
    stream.seek(0)
    assert stream.read() == "curve ??\n"


WHOLE = (
    " 980/1000  98.0%  0:03 left  loss 2.7500  1 skipped  8,012 tokens/s/device  rate 0.0003  "
    "gradient norm 0.450  MFU 41.0%  memory 457 MiB  loss scale 1024"
)


@pytest.mark.parametrize(
    ("width", "last"),
    [
        (20, "0:"),
        (60, "1 skipped"),
        (80, "8,012 tokens/s/device"),
        (100, "rate 0.0003"),
        (200, "loss scale 1024"),
    ],
)
def test_what_a_narrow_line_drops_is_the_end_of_the_whole(width: int, last: str) -> None:
    metrics = step(980, loss_scale=1024.0, skipped_steps=1) | {"time_left": "0:03"}
    line = fitted_line(metrics, 1000, width)
    assert WHOLE.startswith(line)
    assert line.endswith(last)
    assert len(line) <= width


@pytest.mark.parametrize(
    ("width", "last"),
    [(20, "剩"), (60, "跳过 1"), (80, "每秒每设备 8,012 token"), (200, "损失缩放 1024")],
)
def test_a_line_in_chinese_is_as_wide(
    width: int, last: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_PRETRAIN_LANG", "zh")
    metrics = step(980, loss_scale=1024.0, skipped_steps=1) | {"time_left": "0:03"}
    line = fitted_line(metrics, 1000, width)
    assert " 980/1000  98.0%  剩余 0:03  损失 2.7500".startswith(line[:30])
    assert last in line
    assert cell_len(line) <= width


@pytest.mark.parametrize("width", [20, 60, 80, 100, 200])
def test_lines_of_a_terminal_fit_it(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    console = Console(1000, stream=terminal)
    for number in (1, 2, 1000):
        console.progressed(number, loss=2.5)
        console.step(step(number))
    console.message("Saved a checkpoint with a name, a size and seconds that are long to tell.")
    console.evaluation({"global_step": 1000, "eval_loss": 4.0, "eval_ppl": 54.6})
    console.close()
    assert terminal.longest() <= width
    rows = terminal.screen()
    assert [row.split()[0] for row in rows[:3]] == ["1/1000", "2/1000", "1000/1000"]
    assert rows[3].startswith("Saved a checkpoint"), "a step takes one row"
    assert rows[-1] == "", "the live line is gone"


def test_earlier_steps_and_messages_scroll_above_the_live_line(terminal: Terminal) -> None:
    console = Console(10, stream=terminal)
    console.message("before the first step")
    console.step(step(3))
    (_, third) = terminal.screen()
    assert third.startswith(" 3/10  30.0%  ? left  loss 2.7500")
    console.progressed(4, loss=2.25)
    assert terminal.screen()[:2] == ["before the first step", third]
    assert terminal.screen()[2].startswith(" 4/10  40.0%")
    assert terminal.screen()[2].endswith("loss 2.2500  8,012 tokens/s/device  rate 0.0003")
    console.message("saved [bold]here[/bold] :smile:")
    console.step(step(6))
    console.evaluation({"global_step": 6, "eval_loss": 4.0, "eval_ppl": 54.6})
    of_a_set = {"eval_web_loss": 3.0, "eval_web_ppl": 20.1}
    console.evaluation({"global_step": 8, "eval_loss": 3.0, "eval_ppl": 20.1, **of_a_set})
    console.evaluation({"global_step": 10, "test_loss": 4.5, "test_ppl": 90.0})
    console.close()
    console.message("after the end")
    *_, saved, sixth, evaluated, of_sets, tested, after, cursor = terminal.screen()
    assert saved == "saved [bold]here[/bold] :smile:"
    assert sixth.startswith(" 6/10")
    assert evaluated == "evaluation after step 6  loss 4.0000  perplexity 54.60"
    assert of_sets.endswith("loss 3.0000  perplexity 20.10  web 3.0000 (20.10)")
    assert tested == "test after step 10  loss 4.5000  perplexity 90.00"
    assert (after, cursor) == ("after the end", "")


def test_an_evaluation_of_many_sets_breaks_between_them(terminal: Terminal) -> None:
    console = Console(10, stream=terminal, live=False)
    sets = {f"eval_set-{n}_{key}": 2.5 for n in range(6) for key in ("loss", "ppl")}
    console.evaluation({"global_step": 10, "eval_loss": 2.5, "eval_ppl": 12.2, **sets})
    first, *further, cursor = terminal.screen()
    assert first == "evaluation after step 10  loss 2.5000  perplexity 12.20  set-0 2.5000 (2.50)"
    assert further == [
        "  set-1 2.5000 (2.50)  set-2 2.5000 (2.50)  set-3 2.5000 (2.50)",
        "  set-4 2.5000 (2.50)  set-5 2.5000 (2.50)",
    ]
    assert cursor == ""
    assert terminal.longest() <= 80


def test_the_last_step_stays_and_the_live_line_goes(terminal: Terminal) -> None:
    console = Console(10, stream=terminal)
    console.step(step(10))
    console.close()
    last, cursor = terminal.screen()
    assert last.startswith("10/10  100.0%")
    assert cursor == ""


def test_the_cursor_is_visible_while_steps_are_made(terminal: Terminal) -> None:
    console = Console(10, stream=terminal)
    console.step(step(1))
    shown = terminal.getvalue()
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")
    console.close()


@pytest.mark.parametrize("errors", [Terminal(), io.StringIO()])
def test_what_others_print_scrolls_above_unless_it_goes_elsewhere(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, errors: io.StringIO
) -> None:
    monkeypatch.setattr(sys, "stderr", errors)
    console = Console(10, stream=terminal)
    console.step(step(1))
    print("a warning", file=sys.stderr)
    assert ("a warning" in terminal.screen()) == errors.isatty()
    assert errors.getvalue() == ("" if errors.isatty() else "a warning\n")
    console.close()


def test_without_the_live_line_a_terminal_gets_the_same_steps(terminal: Terminal) -> None:
    console = Console(10, live=False, stream=terminal)
    console.progressed(1, loss=2.5)
    console.step(step(1))
    console.close()
    (line,) = terminal.getvalue().splitlines()
    assert line.startswith(" 1/10  10.0%  ? left  loss 2.7500")
    assert len(line) < 80


RESIZED = """
import fcntl, struct, sys, termios
from llm_pretrain.monitor.console import Console

console = Console(1000)
for number, columns in enumerate([100, 60, 200, 80], start=1):
    fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    print(f"columns {columns}")
    console.step({"global_step": number, **STEP})
    console.progressed(number + 1, loss=2.5)
console.close()
"""


def test_the_line_follows_a_terminal_that_is_resized() -> None:
    reading, writing = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    with subprocess.Popen(
        [sys.executable, "-c", f"STEP = {STEP!r}\n{RESIZED}"],
        stdin=writing,
        stdout=writing,
        stderr=writing,
        env={**environment, "TERM": "xterm", "PYTHONPATH": str(ROOT)},
    ):
        os.close(writing)
        written = Terminal()
        # Linux reports the end of a terminal as an error.
        with contextlib.suppress(OSError):
            while data := os.read(reading, 4096):
                written.write(data.decode())
    os.close(reading)
    drawn = re.split(r"columns (\d+)", written.getvalue())[1:]
    lengths = {}
    for columns, text in zip(drawn[::2], drawn[1::2], strict=True):
        lengths[int(columns)] = max(map(len, re.findall(r" *\d+/1000 [^\x1b\r\n]*", text)))
    assert all(length < columns for columns, length in lengths.items()), lengths
    assert lengths[60] < lengths[80] < lengths[100] < lengths[200]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (123, "2:03"), (3723, "1:02:03")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_sparkline() -> None:
    assert sparkline([]) == ""
    assert sparkline([2.0, 2.0]) == "▁▁"
    assert sparkline([8, 7, 6, 5, 4, 3, 2, 1]) == "█▇▆▅▄▃▂▁"
    assert len(sparkline(list(range(1000)), width=40)) == 40
