"""Which run of a tracker's a training is, so that a resume goes on with the same curves."""

from __future__ import annotations

import json
import secrets
import socket
from datetime import datetime
from pathlib import Path

from llm_pretrain.machine.files import write_text

FILE_NAME = "tracked_run.json"
PROJECT = "llm_pretrain"
"""What runs are put together under, where the tracker's own variables name nothing else."""


class TrackedRun:
    """The run as trackers know it; what they need at a resume stands in `output_dir`.

    Args:
        directory: for trackers' files; by default that of the run's first start,
            output_dir/runs/<date and host>, as PaddleNLP has it.
        is_anew: the run begins here, whatever the directory says.

    Raises:
        OSError: the directory can't be written.
    """

    def __init__(
        self, output_dir: str | Path, directory: str | Path | None, *, is_anew: bool
    ) -> None:
        self._path = Path(output_dir) / FILE_NAME
        self.name = Path(output_dir).resolve().name
        found = {} if is_anew else self._read()
        self.is_resumed = bool(found)
        self._values = found or {"id": secrets.token_hex(8)}
        now = f"{datetime.now():%b%d_%H-%M-%S}_{socket.gethostname()}"
        default = found.get("directory", str(Path(output_dir) / "runs" / now))
        self._values["directory"] = str(directory or default)
        self._write()

    @property
    def id(self) -> str:
        """16 letters and digits that no other run has."""
        return self._values["id"]

    @property
    def directory(self) -> Path:
        """Where trackers put their files."""
        return Path(self._values["directory"])

    def known_as(self, tracker: str) -> str | None:
        """The name that a tracker has given to this run; None where it is new to it."""
        return self._values.get(tracker)

    def remember(self, tracker: str, name: str) -> None:
        """Keep the name that a tracker has given to this run.

        Raises:
            OSError: it can't be written.
        """
        self._values[tracker] = name
        self._write()

    def _read(self) -> dict[str, str]:
        """What an earlier start has left; {} for nothing that makes sense."""
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        is_whole = isinstance(found, dict) and all(isinstance(each, str) for each in found.values())
        return found if is_whole and {"id", "directory"} <= found.keys() else {}

    def _write(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self._path, json.dumps(self._values, indent=2) + "\n")
