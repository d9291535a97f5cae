"""Which cells were run and passed, and at which commit: what docs/capabilities.md is made of."""

from __future__ import annotations

import json
from collections.abc import Iterable

from tests.last_change import last_change
from tests.launching import ROOT
from tests.parity.grid import Cell

FOLDER = ROOT / "output" / "parity"


def commit() -> str:
    """The last commit that changed the package, its operators or the grid."""
    return last_change("llm_pretrain", "external_ops", "tests/parity", "tests/emulated_device")


def record(name: str, passed: Iterable[tuple[str, Cell]], device: str = "cpu") -> None:
    """Note the models and cells of one launch that passed."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    cells = [[model, cell.column, cell.layout.name, cell.options] for model, cell in passed]
    result = {"commit": commit(), "device": device, "passed": cells}
    (FOLDER / f"{device}-{name}.json").write_text(json.dumps(result))


def passed_at(wanted_commit: str, device: str = "cpu") -> list[tuple[str, str, str, dict]]:
    """(model, column, layout, options) of every cell that passed at that commit on a device."""
    found = []
    for path in sorted(FOLDER.glob("*.json")):
        result = json.loads(path.read_text())
        if (result["commit"], result.get("device", "cpu")) == (wanted_commit, device):
            found += [tuple(cell) for cell in result["passed"]]
    return found
