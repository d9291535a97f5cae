"""Writes `docs/faults.md` from the results of a storm: python -m tests.faults.report"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from tests.faults.job import LAYOUTS
from tests.faults.kinds import KINDS
from tests.faults.storm import results
from tests.launching import ROOT

PAGE = ROOT / "docs" / "faults.md"
_HEAD = """\
# Faults, and what became of the runs

`make storm` does faults to running jobs of `llm-pretrain launch`; a seed draws the rank, the moment
and the place. After each it compares loss and gradient norm of every step with those of a run in
which nothing failed, bit for bit, and looks whether a published checkpoint is lost. The model is
tiny and saves every 5 steps, beside the training; bits are compared every 5 steps. A fault is
survived when the curve is the same, the run goes on, and nothing that was published is lost.
"""


def page(lines: Sequence[dict[str, Any]]) -> str:
    """The page for the results of one commit."""
    survived = sum(line["survived"] for line in lines)
    commits = sorted({line["commit"] for line in lines})
    parts = [
        _HEAD,
        f"**{survived:,} of {len(lines):,}** faults were survived, on commit {commits[0]}.\n",
        "In each cell: survived of all; median seconds from the fault to the next step; median\n"
        "steps that were taken again.\n",
        *_table(lines),
        "",
        *_kinds(),
    ]
    return "\n".join(parts) + "\n"


def _table(lines: Sequence[dict[str, Any]]) -> Iterable[str]:
    layouts = [layout for layout in LAYOUTS if any(line["layout"] == layout for line in lines)]
    yield f"| fault | {' | '.join(layouts)} |"
    yield "|---" * (len(layouts) + 1) + "|"
    for kind in KINDS:
        of_kind = [line for line in lines if line["kind"] == kind]
        cells = [_cell([line for line in of_kind if line["layout"] == each]) for each in layouts]
        if of_kind:
            yield f"| {kind} | {' | '.join(cells)} |"


def _cell(lines: Sequence[dict[str, Any]]) -> str:
    if not lines:
        return ""
    survived = [line for line in lines if line["survived"]]
    if not survived:
        return f"0 of {len(lines)}"
    seconds = median(line["seconds"] for line in survived)
    repeated = median(line["repeated"] for line in survived)
    return f"{len(survived)} of {len(lines)}; {seconds:.1f} s; {repeated:g}"


def _kinds() -> Iterable[str]:
    yield "What is done:\n"
    for kind, action in KINDS.items():
        text = " ".join((action.__doc__ or "").split())
        yield f"- **{kind}**: {text}"


def write(path: Path = PAGE) -> None:
    """The page for the commit of the last result."""
    found = results()
    of_last = [line for line in found if line["commit"] == found[-1]["commit"]]
    path.write_text(page(of_last), encoding="utf-8")


if __name__ == "__main__":
    write()
