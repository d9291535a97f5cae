"""What the programs of data.py measure of themselves: time and memory."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any


class Measured:
    """Seconds by the clock and of the processor, and the growth of memory, of a `with` block."""

    def __enter__(self) -> Measured:
        # Sets the process's peak back to what it holds now.
        Path("/proc/self/clear_refs").write_text("5")
        self._before = _status("VmRSS")
        self._processor = time.process_time()
        self._wall = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall = time.perf_counter() - self._wall
        self.processor = time.process_time() - self._processor
        self.peak_mib = _status("VmHWM")
        self.growth_mib = self.peak_mib - self._before

    def write(self, path: str, **more: Any) -> None:
        """The figures, with `more` beside them, as JSON."""
        figures = {
            "wall": self.wall,
            "processor": self.processor,
            "peak_mib": self.peak_mib,
            "growth_mib": self.growth_mib,
        }
        Path(path).write_text(json.dumps(figures | more))


def _status(name: str) -> float:
    """An amount of memory of this process in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) / 1024
    raise OSError(f"/proc/self/status has no {name}")
