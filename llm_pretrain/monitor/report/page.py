"""The page as a whole: one HTML file with its style and script in it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from html import escape
from pathlib import Path

from llm_pretrain.monitor.report import sections
from llm_pretrain.monitor.report.history import History
from llm_pretrain.monitor.report.run_curves import charts
from llm_pretrain.monitor.report.words import Words

MOST_RUNS = 8
"""As many as colours can be told apart."""


def report_page(
    histories: Sequence[History], words: Words, *, seconds_to_reload: int | None = None
) -> str:
    """The report of a run, or of up to `MOST_RUNS` side by side, as HTML that loads nothing.

    Whatever comes from files is escaped.

    Args:
        seconds_to_reload: after which the browser asks for the page again, if it is given.
    """
    several = len(histories) > 1
    first = histories[0]
    title = words("comparison", count=len(histories)) if several else words("report")
    names = ", ".join(history.name for history in histories)
    parts = [_verdict(histories, words)]
    drawn = charts(histories, words)
    curves = "".join(drawn) if drawn else f"<p>{escape(words('no steps'))}</p>"
    parts.append(_section(words("curves"), f'<div class="charts">{curves}</div>'))
    if several:
        parts.append(_section(words("differing"), sections.differing(histories, words)))
    parts.append(_section(words("time"), sections.time_spent(histories, words)))
    for history in histories:
        suffix = f": {history.name}" if several else ""
        ranks, pipeline = sections.ranks(history, words), sections.pipeline(history, words)
        parts.append(_section(words("ranks") + suffix, ranks))
        parts.append(_section(words("pipeline") + suffix, pipeline))
        parts.append(_section(words("samples") + suffix, sections.samples(history, words)))
    if not several:
        parts.append(_section(words("configuration"), sections.configuration(first, words)))
    for history in histories:
        suffix = f": {history.name}" if several else ""
        content = sections.environment(history, words)
        parts.append(_section(words("environment") + suffix, content))
    made = words("made by", date=f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}")
    again = f'<meta http-equiv="refresh" content="{seconds_to_reload}">'
    return (
        f'<!DOCTYPE html>\n<html lang="{words.tag}"><head><meta charset="utf-8">'
        f"{again if seconds_to_reload else ''}"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(names)} · {escape(title)}</title><style>{_beside('page.css')}</style>"
        f"</head><body><header><p>{escape(title)}</p><h1>{escape(names)}</h1></header>"
        f"<main>{''.join(parts)}</main><footer>{escape(made)}</footer>"
        f'<div id="tip" role="status"></div><script>{_beside("page.js")}</script></body></html>\n'
    )


def _verdict(histories: Sequence[History], words: Words) -> str:
    if len(histories) > 1:
        return f"<section>{sections.verdicts(histories, words)}</section>"
    figures = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(figure)}</dd></div>"
        for name, figure in sections.verdict(histories[0], words)
    )
    return f'<section><dl class="verdict">{figures}</dl></section>'


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>" if content else ""


def _beside(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
