"""`llm-pretrain report`: a run, or several side by side, as one page."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

from llm_pretrain.machine.files import naming, write_text
from llm_pretrain.machine.language import language
from llm_pretrain.machine.terminal import Command, say, shown
from llm_pretrain.monitor.page_server import PageServer
from llm_pretrain.monitor.report.history import differing_names, read_history
from llm_pretrain.monitor.report.page import MOST_RUNS, report_page
from llm_pretrain.monitor.report.words import LANGUAGES, Words
from llm_pretrain.training.folders import lock_problems

SECONDS_TO_RELOAD = 15


def main(arguments: Sequence[str]) -> int:
    """Write the page; the exit status is 1 where a folder is no run's, 2 for a wrong command."""
    command = Command(
        "report", "Write a run, or several side by side, as one HTML page that loads nothing."
    )
    add = command.add_argument
    add("runs", metavar="RUN", nargs="+", help=f"output_dir of a run; up to {MOST_RUNS} of them")
    where = command.add_mutually_exclusive_group()
    page_file = "the page (default: run.html)"
    where.add_argument("-o", "--output", default="run.html", metavar="FILE", help=page_file)
    where.add_argument(
        "--serve",
        type=int,
        nargs="?",
        const=0,
        metavar="PORT",
        help="show it live at a port of this machine, in place of a file; Ctrl-C ends it",
    )
    add("--language", choices=LANGUAGES, help="default: the locale's, else English")

    def work(given: argparse.Namespace) -> None:
        if len(given.runs) > MOST_RUNS:
            raise ValueError(f"{len(given.runs)} runs are too many for a page; take {MOST_RUNS}")
        named = [*zip(given.runs, differing_names(given.runs), strict=True)]
        words = Words(given.language or language())

        def page() -> str:
            histories = [
                read_history(run, name, is_running=bool(lock_problems(run))) for run, name in named
            ]
            seconds = SECONDS_TO_RELOAD if given.serve is not None else None
            return report_page(histories, words, seconds_to_reload=seconds)

        written = page()
        if given.serve is not None:
            _serve(page, given.serve)
            return
        folder = Path(given.output).parent
        if not folder.is_dir():
            raise ValueError(f"-o {given.output}: there is no folder {folder}")
        if Path(given.output).is_dir():
            raise ValueError(f"-o {given.output} is a folder; name the file of the page")
        with naming(given.output):
            write_text(Path(given.output), written)
        print(shown(f"{given.output}: {len(written.encode()) / 1000:,.0f} kB"))

    return command.run(arguments, work)


def _serve(page: Callable[[], str], port: int) -> None:
    """Show the page until Ctrl-C."""
    try:
        server = PageServer("/", "text/html; charset=utf-8", page, port)
    except (OSError, OverflowError) as error:
        raise ValueError(f"port {port}: {getattr(error, 'strerror', None) or error}") from None
    say(f"{server.url} (Ctrl-C ends it)")
    with contextlib.suppress(KeyboardInterrupt):
        server.wait()
    server.close()
