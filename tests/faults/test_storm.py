"""Faults on running jobs: a few in the ordinary tests, a thousand and an hour's in the slow."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.faults import report, soak, storm
from tests.faults.job import LAYOUTS
from tests.faults.kinds import KINDS

QUICK = ["rank killed", "disk full", "bit flipped on disk", "bit flipped in memory"]


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(storm, "OUTPUT", tmp_path)
    monkeypatch.setattr(storm, "RESULTS", tmp_path / "results.jsonl")
    return tmp_path


def test_a_shower(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(storm, "STEPS", {2: 120})
    assert storm.run(len(QUICK), 1, ["dp2"], QUICK, 0) == 0, capsys.readouterr().out
    text = report.page(storm.results())
    assert f"**{len(QUICK)} of {len(QUICK)}** faults were survived" in text
    for kind in QUICK:
        assert re.search(rf"\| {kind} \| 1 of 1; [\d.]+ s; \d+ \|", text), text


def test_what_an_hour_has_held_is_in_the_page() -> None:
    held = {"kilobytes": 51200, "descriptors": 16, "threads": 1}
    faults = [
        {"survived": True, "launcher": held, "rank": {**held, "threads": n}} for n in range(9)
    ]
    hour = {"commit": "c", "layout": "dp2tp2", "minutes": 60.2, "faults": faults}
    line = {"commit": "c", "layout": "dp2", "kind": "rank killed", "seconds": 3.0, "repeated": 2}
    text = report.page([{**line, "survived": True, "problem": ""}], hour)
    assert "**9 of 9** faults were survived" in text
    assert "| launcher | memory, MiB | 50 | 50 | 50 |" in text
    assert "| rank 0 | threads | 4 | 8 | 8 |" in text


def test_every_pair_of_layout_and_kind_is_drawn_as_often() -> None:
    pairs = storm.drawn(1000, 0, [*LAYOUTS], [*KINDS])
    counts = [pairs.count((layout, kind)) for layout in LAYOUTS for kind in KINDS]
    assert sum(counts) == 1000
    assert max(counts) - min(counts) <= 1


def test_a_fault_that_was_not_survived_is_in_the_table() -> None:
    line = {"commit": "c", "layout": "dp2", "kind": "rank killed", "seconds": 3.0, "repeated": 2}
    lost = {"survived": False, "number": 7, "problem": "the checkpoint of step 5 is lost"}
    text = report.page([{**line, "survived": True, "problem": ""}, {**line, **lost}])
    assert "**1 of 2** faults were survived" in text
    assert "| rank killed | 1 of 2; 3.0 s; 2 |" in text
    assert "- **rank killed**, dp2, fault 7: the checkpoint of step 5 is lost" in text


@pytest.mark.slow
@pytest.mark.timeout(6 * 3600)
def test_a_thousand_faults() -> None:
    assert storm.run(1000, 0, [*LAYOUTS], [*KINDS], 0) == 0
    report.write()


@pytest.mark.slow
@pytest.mark.timeout(2 * 3600)
def test_an_hour_with_a_fault_every_minute(tmp_path: Path) -> None:
    """What the launcher and a rank that lives through it hold grows no further than at first."""
    minutes = int(os.environ.get("SOAK_MINUTES", "60"))
    faults = soak.soak(minutes, 2, tmp_path)["faults"]
    assert len(faults) == minutes
    halves = faults[: minutes // 2], faults[minutes // 2 :]
    for key, share in (("kilobytes", 1.05), ("descriptors", 1.1), ("threads", 1.1)):
        for process in ("launcher", "rank"):
            early, late = (max(fault[process][key] for fault in half) for half in halves)
            assert late <= share * early, (process, key, early, late)
