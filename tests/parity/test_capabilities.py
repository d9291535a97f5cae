"""The table of capabilities marks what was run at the commit, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_pretrain.models.families import CAPABILITIES
from tests.emulated_device.compile_plugin import DEVICE
from tests.parity import capabilities, results
from tests.parity.grid import Run, device_launches, launches

MISSED = "GPT-2"


@pytest.fixture(autouse=True)
def _record(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of everything, but one cell of one model on each device."""
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    monkeypatch.setattr(results, "commit", lambda: "here")
    for quick in (True, False):
        for device, found in (
            ("cpu", launches(quick=quick)),
            (DEVICE, device_launches(quick=quick)),
        ):
            for name, runs in found.items():
                results.record(f"{name}-{quick}", filter(is_passed, runs), device)


def is_passed(run: Run) -> bool:
    return run[0] != MISSED or run[1].column != "PP"


def test_a_mark_needs_every_run_of_its_column() -> None:
    columns, first, _, second = (
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in capabilities.page("here").splitlines()
        if line.startswith(("| Model", f"| {MISSED} "))
    )
    gaps = [name for name, cell in zip(columns, first, strict=True) if cell == capabilities.NONE]
    assert gaps == ["PP", capabilities.ON_DEVICE]
    assert set(second[1:]) == {capabilities.MARK}


def test_another_commit_has_no_marks() -> None:
    text = capabilities.page("elsewhere")
    assert capabilities.MARK not in text
    assert text.count("\n| ") > 2 * len(CAPABILITIES)
