"""The parts of the page that are not curves: verdict, time, ranks, pipeline, configuration."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from llm_pretrain.monitor.report import gantt
from llm_pretrain.monitor.report.curves import Chart, Curve
from llm_pretrain.monitor.report.history import (
    History,
    differences,
    is_number,
    mapping,
    shown_value,
)
from llm_pretrain.monitor.report.numbers import NOTHING, decimal, share, short, whole
from llm_pretrain.monitor.report.words import Words

LONGEST_VALUE = 240
_MOST_CELLS = 512
_MOST_STARTS = 20
_MOST_SAMPLES = 24


def verdict(history: History, words: Words) -> list[tuple[str, str]]:
    """(name, figure) of what a reader wants to know first."""
    last: Mapping[str, Any] = history.steps[-1] if history.steps else {}
    loss, evaluation = last.get("loss"), _last_evaluation(history)
    seconds = history.goodput_seconds
    wall = sum(seconds.values())
    perplexity = math.exp(min(evaluation, 700.0)) if evaluation is not None else last.get("ppl")
    return [
        (words("state"), words(history.state)),
        (words("step"), _step_of(history)),
        (words("loss"), decimal(loss)),
        (words("evaluation loss"), decimal(evaluation)),
        (words("perplexity"), decimal(perplexity)),
        (words("bits per byte"), decimal(_bits_per_byte(history))),
        (words("tokens"), _short(history.tokens_at(last))),
        (words("hours"), f"{wall / 3600:,.2f}" if wall else NOTHING),
        (words("speed"), whole(history.speed)),
        (words("mfu"), share(last.get("mfu"))),
        (words("goodput"), share(seconds.get("training", 0.0) / wall) if wall else NOTHING),
    ]


def _bits_per_byte(history: History) -> float | None:
    found = (line.get("eval_bits_per_byte") for line in reversed(history.evaluations))
    return next((value for value in found if is_number(value)), None)


def verdicts(histories: Sequence[History], words: Words) -> str:
    """The verdicts of runs side by side, and how far each evaluation loss is from the first's."""
    columns = [verdict(history, words) for history in histories]
    evaluations = [_last_evaluation(history) for history in histories]
    first = evaluations[0]
    heads = [words("run"), *(name for name, _ in columns[0]), words("difference")]
    rows = []
    for number, (history, figures) in enumerate(zip(histories, columns, strict=True)):
        own = evaluations[number]
        both = own is not None and first is not None and number > 0
        difference = f"{own - first:+.4f}" if both and own is not None and first is not None else ""
        name = f'<span class="key c{number}">{escape(history.name)}</span>'
        rows.append([name, *(escape(figure) for _, figure in figures), difference])
    note = f'<p class="note">{escape(words("difference note"))}</p>'
    return _table(heads, rows, "figures") + note


def time_spent(histories: Sequence[History], words: Words) -> str:
    """A bar for each run of where its wall time went, with the seconds of each share."""
    bars = []
    several = len(histories) > 1
    for history in histories:
        seconds = history.goodput_seconds
        wall = sum(seconds.values())
        if not wall:
            continue
        parts = [(number, *part) for number, part in enumerate(seconds.items())]
        bar = "".join(
            f'<span class="s{number}" style="width:{100 * took / wall:.2f}%"></span>'
            for number, _, took in parts
            if took
        )
        key = "".join(
            f'<li class="key s{number}">{escape(words(name).lower())} <b>{share(took / wall)}</b> '
            f"{took / 3600:,.2f} h</li>"
            for number, name, took in parts
            if took / wall >= 0.0005
        )
        title = f"<h3>{escape(history.name)}</h3>" if several else ""
        whole_time = words("wall", hours=f"{wall / 3600:,.2f}")
        bars.append(
            f'{title}<div class="bar">{bar}</div><ul class="keys">{key}</ul>'
            f'<p class="note">{escape(whole_time)}</p>'
        )
    return "".join(bars)


def ranks(history: History, words: Words) -> str:
    """The slowest and the median rank's time, and how often each rank was the slowest."""
    lines = [line for line in history.steps if isinstance(line.get("slowest_rank"), int)]
    slowest = history.series("slowest_rank_seconds", lines)
    if not slowest:
        return ""
    title, names = words("ranks note"), (words("slowest"), words("median"))
    median = history.series("median_rank_seconds", lines)
    chart = Chart(title, [Curve(names[0], slowest), Curve(names[1], median, 1)], from_zero=True)
    counts = Counter(line["slowest_rank"] for line in lines)
    last_start = history.starts[-1] if history.starts else {}
    processes = last_start.get("processes")
    count = max(processes if isinstance(processes, int) else 0, max(counts) + 1)
    most = max(counts.values())
    cells = "".join(
        f'<span style="--heat:{counts[rank] / most:.2f}" title="rank {rank}: '
        f'{share(counts[rank] / len(lines))}">{rank}</span>'
        for rank in range(min(count, _MOST_CELLS))
    )
    note = escape(words("grid note", count=len(lines)))
    return f'{chart.draw()}<p class="note">{note}</p><div class="grid-of-ranks">{cells}</div>'


def pipeline(history: History, words: Words) -> str:
    """The schedule of the run's pipeline; "" where it has none."""
    keys = ("pipeline_parallel_degree", "virtual_pp_degree", "gradient_accumulation_steps")
    stages, chunks, micro_batches = (
        value if isinstance(value, int) and value > 0 else 1 for value in map(history.value, keys)
    )
    if stages == 1 or (chunks > 1 and micro_batches % stages):
        return ""
    drawn = gantt.micro_batches_drawn(stages, chunks, micro_batches)
    if not drawn:
        return f"<p>{escape(words('pipeline too large'))}</p>"
    passes = gantt.timed(stages, chunks, drawn)
    bubble = (stages - 1) / (stages - 1 + chunks * micro_batches)
    if drawn == micro_batches:
        bubble = gantt.waiting_share(passes, stages)
    note = words(
        "pipeline note",
        ranks=stages,
        chunks=chunks,
        micro_batches=micro_batches,
        bubble=share(bubble),
    )
    if drawn < micro_batches:
        note += " " + words("pipeline part", count=drawn)
    legend = "".join(
        f'<span class="key {step}">{escape(words(step))}</span>' for step in ("forward", "backward")
    )
    picture = gantt.draw(passes, stages, escape(words("pipeline")))
    return f'<p class="legend">{legend}</p>{picture}<p class="note">{escape(note)}</p>'


def samples(history: History, words: Words) -> str:
    """The texts that followed the run's prompts, the newest first; "" where it has none."""
    lines = history.of_kind("sample")
    rows = [
        [whole(line["global_step"]), _cut(str(line.get("prompt"))), _cut(str(line.get("text")))]
        for line in lines[: -_MOST_SAMPLES - 1 : -1]
    ]
    return _table([words(name) for name in ("step", "prompt", "text")], rows) if rows else ""


def configuration(history: History, words: Words) -> str:
    """The keys that are set, with their sources, and the defaults folded."""
    heads = [words("key"), words("value"), words("source")]
    entries = history.configuration.items()
    given = [(key, *entry) for key, entry in entries if entry[1] != "default"]
    defaults = [(key, value) for key, (value, source) in entries if source == "default"]
    if not given and not defaults:
        return ""
    table = _table(
        heads, ([_code(key), _value(value), escape(words(s))] for key, value, s in given)
    )
    rest = _table(heads[:2], ([_code(key), _value(value)] for key, value in defaults))
    return (
        f'<p class="note">{escape(words("configuration note"))}</p>{table}<details><summary>'
        f"{escape(words('defaults', count=len(defaults)))}</summary>{rest}</details>"
    )


def differing(histories: Sequence[History], words: Words) -> str:
    """A table of the keys whose values are not the same in all runs."""
    rows = differences(histories)
    if not rows:
        known = all(history.configuration for history in histories)
        return f"<p>{escape(words('nothing differs' if known else 'no record'))}</p>"
    heads = [words("key"), *(history.name for history in histories)]
    return _table(heads, ([_code(key), *map(_value, values)] for key, values in rows.items()))


def environment(history: History, words: Words) -> str:
    """The command that repeats the run, the programs and the machine, and its starts."""
    record = history.record
    if not record:
        return f"<p>{escape(words('no record'))}</p>"
    folder, command = (
        str(record.get(name) or words("unknown")) for name in ("directory", "command")
    )
    machine = mapping(record.get("machine"))
    memory = machine.get("memory_bytes")
    facts = {
        **{name: machine.get(name) for name in ("host", "system", "processor", "device")},
        "memory": f"{memory / 2**30:,.1f} GiB" if is_number(memory) else None,
        **mapping(machine.get("environment")),
        **mapping(record.get("versions")),
        words("git"): record.get("git_commit"),
        words("operators"): ", ".join(
            f"{name} {served}" for name, served in mapping(record.get("operators")).items()
        ),
    }
    rows = [[_code(name), _value(value)] for name, value in facts.items() if value]
    return (
        f"<h3>{escape(words('repeat'))}</h3>"
        f"<pre>{escape(f'cd {shlex.quote(folder)}')}\n{escape(command)}</pre>"
        f"{_table([words('key'), words('value')], rows)}{_starts(history, words)}"
    )


def _starts(history: History, words: Words) -> str:
    heads = [words(name) for name in ("when", "step", "processes", "changes")]
    rows = []
    for start in history.starts[-_MOST_STARTS:]:
        changes = start.get("changes")
        texts = [str(change) for change in changes] if isinstance(changes, list) else []
        cells = [str(start.get(name, "")) for name in ("time", "step", "processes")]
        rows.append([*map(escape, cells), _cut("; ".join(texts))])
    return f"<h3>{escape(words('starts'))}</h3>{_table(heads, rows)}" if rows else ""


def _step_of(history: History) -> str:
    last, end = whole(history.last_step), history.value("max_steps")
    return f"{last}/{whole(end)}" if is_number(end) else last


def _last_evaluation(history: History) -> float | None:
    points = [y for _, y in history.series("eval_loss", history.evaluations) if math.isfinite(y)]
    return points[-1] if points else None


def _short(value: float | None) -> str:
    return NOTHING if value is None else short(value)


def _table(heads: Iterable[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """A table whose cells are HTML, and whose heads are text."""
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return (
        f'<div class="scroll"><table class="{kind}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _code(text: str) -> str:
    return f"<code>{_cut(text)}</code>"


def _value(value: Any) -> str:
    return _code(shown_value(value))


def _cut(text: str) -> str:
    """Escaped, and cut short where it is long."""
    return escape(text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…")
