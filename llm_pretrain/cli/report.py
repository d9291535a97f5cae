"""`llm-pretrain report`: a run, or several side by side, as one page."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from llm_pretrain.machine.files import naming, write_text
from llm_pretrain.machine.terminal import Command, shown
from llm_pretrain.monitor.report.history import differing_names, read_history
from llm_pretrain.monitor.report.page import MOST_RUNS, report_page
from llm_pretrain.monitor.report.words import LANGUAGES, Words, language_of_locale
from llm_pretrain.training.folders import lock_problems


def main(arguments: Sequence[str]) -> int:
    """Write the page; the exit status is 1 where a folder is no run's, 2 for a wrong command."""
    command = Command(
        "report", "Write a run, or several side by side, as one HTML page that loads nothing."
    )
    add = command.add_argument
    add("runs", metavar="RUN", nargs="+", help=f"output_dir of a run; up to {MOST_RUNS} of them")
    add("-o", "--output", default="run.html", metavar="FILE", help="the page (default: run.html)")
    add("--language", choices=LANGUAGES, help="default: the locale's, else English")

    def work(given: argparse.Namespace) -> None:
        if len(given.runs) > MOST_RUNS:
            raise ValueError(f"{len(given.runs)} runs are too many for a page; take {MOST_RUNS}")
        named = zip(given.runs, differing_names(given.runs), strict=True)
        histories = [
            read_history(run, name, is_running=bool(lock_problems(run))) for run, name in named
        ]
        page = report_page(histories, Words(given.language or language_of_locale()))
        with naming(given.output):
            write_text(Path(given.output), page)
        print(shown(f"{given.output}: {len(page.encode()) / 1000:,.0f} kB"))

    return command.run(arguments, work)
