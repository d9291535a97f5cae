"""Trains cases on the emulated device and counts how often the host has waited for it.

Usage: count_meetings.py CASES.json COUNTS.json. The cases are a list of configurations; a list for
each has the count after every step, as rank 0 sees it.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from pathlib import Path
from typing import Any

from llm_pretrain.training.reports import Reports
from tests.emulated_device.compile_plugin import DEVICE
from tests.parity import worker


def main(cases: list[str], counts: Path) -> None:
    plugin = ctypes.CDLL(str(Path(os.environ["CUSTOM_DEVICE_ROOT"], "libemulated.so")))
    found: list[list[int]] = []
    progressed = Reports.progressed

    def counted(reports: Reports, *state: Any) -> None:
        progressed(reports, *state)
        if state[0].global_step == 1:
            found.append([])
        found[-1].append(plugin.emulated_device_meetings())

    Reports.progressed = counted  # type: ignore[method-assign]
    worker.main(cases, DEVICE)
    if os.environ.get("PADDLE_TRAINER_ID", "0") == "0":
        counts.write_text(json.dumps(found))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
