"""`llm-pretrain runs`: a table of the runs below a folder."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

from llm_pretrain.machine.files import describe
from llm_pretrain.machine.language import language, translated
from llm_pretrain.machine.terminal import Command, columns_of, ljust, width, wrap
from llm_pretrain.monitor.report.history import (
    History,
    NoRunError,
    differences,
    find_runs,
    is_number,
    read_history,
    shown_value,
)
from llm_pretrain.monitor.report.numbers import NOTHING, short
from llm_pretrain.monitor.report.words import Words
from llm_pretrain.training.folders import lock_problems

_HEADS = "run  state  step  loss  best  tok/s/dev  started"
_LEAST_NAME = 12
_LONGEST_VALUE = 40


def main(arguments: Sequence[str]) -> int:
    """Print the table; the exit status is 1 where there is no run, 2 for a wrong command."""
    command = Command(
        "runs",
        "Show the runs below a folder: their state, last step and loss, best checkpoint (its step "
        "and evaluation loss), speed and first start, and the keys in which they differ.",
    )
    command.add_argument("folder", metavar="DIR", nargs="?", default=".", help="default: this one")

    def work(given: argparse.Namespace) -> None:
        top = Path(given.folder)
        if not top.is_dir():
            raise NoRunError(f"{top} is no folder")
        histories, unread = [], []
        for run in find_runs(top):
            try:
                is_running = bool(lock_problems(run))
                histories.append(read_history(run, _name(run, top), is_running=is_running))
            except OSError as error:
                unread.append(describe(error))
        if not histories and not unread:
            raise NoRunError(f"{top} and what is below it hold no run: no train_log.jsonl")
        if histories:
            for line in table(sorted(histories, key=_began), width()):
                print(line, flush=True)
        if unread:
            raise ValueError("\n".join(unread))

    return command.run(arguments, work)


def table(histories: Sequence[History], columns: int) -> Iterator[str]:
    """A line for each run, and below it its values of the keys that are not the same in all runs;
    no line is longer than `columns` but for a name or a word that is."""
    words = Words(language())
    heads = translated(_HEADS).split("  ")
    rows = [heads, *(_cells(history, words) for history in histories)]
    widths = [max(map(columns_of, column)) for column in zip(*rows, strict=True)]
    room = columns - sum(widths[1:]) - 2 * (len(heads) - 1)
    widths[0] = min(widths[0], max(room, _LEAST_NAME))
    changed = differences(histories)
    yield _line(heads, widths)
    for number, (history, row) in enumerate(zip(histories, rows[1:], strict=True)):
        if columns_of(row[0]) > widths[0]:
            yield from wrap(row[0], columns)
            row = ["", *row[1:]]
        yield _line(row, widths)
        if history.configuration:
            values = (f"{key} {_short_value(all_[number])}" for key, all_ in changed.items())
            yield from wrap(f"  {', '.join(values)}", columns) if changed else ()


def _cells(history: History, words: Words) -> list[str]:
    losses = history.series("loss")
    end = history.value("max_steps")
    best = history.best
    began = _began(history)
    return [
        history.name,
        words(history.state),
        f"{history.last_step}/{end}" if is_number(end) else str(history.last_step),
        f"{losses[-1][1]:.4f}" if losses else NOTHING,
        f"{best[0]} {best[1]:.4f}" if best else NOTHING,
        short(history.speed) if history.speed is not None else NOTHING,
        f"{datetime.fromtimestamp(began):%m-%d %H:%M}" if began else NOTHING,
    ]


def _began(history: History) -> float:
    """Seconds since 1970 of the first start; 0 where it isn't known."""
    for start in history.starts[:1]:
        try:
            return datetime.fromisoformat(str(start.get("time"))).timestamp()
        except ValueError:
            break
    times = [line["time"] for line in history.lines if is_number(line.get("time"))]
    return float(min(times, default=0.0))


def _line(cells: Iterable[str], widths: Sequence[int]) -> str:
    return "  ".join(map(ljust, cells, widths)).rstrip()


def _name(run: Path, top: Path) -> str:
    return run.absolute().name if run == top else str(run.relative_to(top))


def _short_value(value: object) -> str:
    text = shown_value(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"
