"""Events of a run, told to a program (`alert_command`) and to a URL (`alert_url`).

Each event is one JSON object, on the program's standard input or in an HTTP POST:

- `event`: "failure" (the job ends with an error), "restart" (a start that goes on from a
  checkpoint), "spike", "failed_save", "end", or what else a run tells of;
- `time`: seconds since 1970;
- `run`: `output_dir`, as an absolute path; `host`: of the process that tells it;
- `global_step`: the last step that was taken, 0 before the first; null where it isn't known;
- `message`: a text for a person, of at most 16,000 characters;
- the event's own values by name; a number that isn't finite is "nan", "inf" or "-inf".

A line feed ends it, so that `tee -a FILE` is a program that keeps them all.

The training waits for nothing here, and nothing that goes wrong here ends it. Each outlet has a
thread and a queue of its own, each event a limit of time; an event that could not be told is one
line on the console. At the end of the process those under way get a few more seconds.

As a program, `python -I alerts.py`, it tells of one failure, for a process that was killed. It
needs the standard library alone.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import queue
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from llm_pretrain.machine.terminal import say

SECONDS_PER_EVENT = 10.0
SECONDS_AT_END = SECONDS_PER_EVENT + 2
LONGEST_MESSAGE = 16_000
_MOST_WAITING = 100
_TOLD = ".failure_told"
"""In `output_dir` once the failure of this start has been told."""


class AlertError(Exception):
    """An event that could not be told; the text says why."""


class Outlet:
    """One way out: events are told in their order by a thread, which the first of them starts.

    Args:
        name: the key of the configuration.
        tell: tells one event, as JSON, within some seconds. Raises AlertError.
        say: gets a line about each event that could not be told.
    """

    def __init__(
        self, name: str, tell: Callable[[str, float], None], say: Callable[[str], None]
    ) -> None:
        self._name = name
        self._tell = tell
        self._say = say
        self._events: queue.Queue[tuple[str, str] | None] = queue.Queue(_MOST_WAITING)
        self._thread: threading.Thread | None = None
        self._deadline = math.inf

    def put(self, kind: str, text: str) -> None:
        """Have an event told; returns at once."""
        if self._thread is None:
            self._deadline = math.inf
            # A daemon, so that it can't keep a finished process.
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        try:
            self._events.put_nowait((kind, text))
        except queue.Full:
            self._warn(kind, f"{_MOST_WAITING} others are waiting")

    def finish(self, deadline: float) -> None:
        """Wait until all is told, at most until `deadline` (of `time.monotonic`)."""
        if self._thread is None:
            return
        self._deadline = deadline
        with contextlib.suppress(queue.Full):
            self._events.put(None, timeout=max(0.0, deadline - time.monotonic()))
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            self._say(f"warning: {self._name} was not done in time; the run ends without it.")
        else:
            self._thread = None

    def _work(self) -> None:
        while (event := self._events.get()) is not None:
            kind, text = event
            try:
                left = self._deadline - time.monotonic()
                if left <= 0:
                    raise AlertError("the run has ended")
                self._tell(text, min(SECONDS_PER_EVENT, left))
            except AlertError as error:
                self._warn(kind, str(error))

    def _warn(self, kind: str, reason: str) -> None:
        self._say(f"warning: {self._name} was not told of an event ({kind}): {reason}.")


class Alerts:
    """Tells of a run's events; every rank has one, though most events are the first rank's.

    Args:
        run: `output_dir`.
        command: a program and its arguments, in a shell's words; no shell runs it.
        url: of http or https.
    """

    def __init__(self, run: str | Path, command: str | None = None, url: str | None = None) -> None:
        self.global_step: int | None = 0
        self.has_started = False
        """Whether the run is under way; an error before is for the person who started it."""
        self.say: Callable[[str], None] = _warn_on_stderr
        """Gets the lines about events that could not be told."""
        self._run = Path(run).absolute()
        self._settings = {"command": command or "", "url": url or ""}
        self._words: list[str] = []
        self._outlets: list[Outlet] = []
        if command:
            words = self._words = shlex.split(command)
            self._add("alert_command", lambda text, seconds: run_command(words, text, seconds))
        if url:
            self._add("alert_url", lambda text, seconds: post(url, text, seconds))

    def _add(self, name: str, tell: Callable[[str, float], None]) -> None:
        self._outlets.append(Outlet(name, tell, lambda line: self.say(line)))

    def send(self, kind: str, message: str, **fields: Any) -> None:
        """Tell of an event; returns at once.

        Args:
            fields: values of the event's own, of JSON's types.
        """
        event = {
            "event": kind,
            "time": time.time(),
            "run": str(self._run),
            "host": socket.gethostname(),
            "global_step": self.global_step,
            "message": message[-LONGEST_MESSAGE:],
            **plain(fields),
        }
        for outlet in self._outlets:
            outlet.put(kind, json.dumps(event) + "\n")

    def begin(self) -> None:
        """Forget the failures of earlier starts, and say if the program isn't there.

        The first rank does, before any can fail.
        """
        program = self._words[0] if self._words else ""
        if program and shutil.which(program) is None:
            self.say(f"warning: alert_command: there is no program {program} here.")
        with contextlib.suppress(OSError):
            (self._run / _TOLD).unlink(missing_ok=True)

    def failure(self, message: str, **fields: Any) -> None:
        """Tell that the job ends with an error, and wait until that is told.

        Only the first of the processes that see the same `output_dir` tells it, whichever of a
        job's ranks that is.
        """
        if self._outlets and self._claims_failure():
            self.send("failure", message, **fields)
            self.close()

    def by_program(self) -> dict[str, str] | None:
        """What this file as a program needs to tell a failure, but for the `message`; None where
        nobody is told."""
        if not self._outlets:
            return None
        return {"program": os.path.abspath(__file__), "run": str(self._run), **self._settings}

    def close(self) -> None:
        """Let what is under way be told, for a few seconds."""
        deadline = time.monotonic() + SECONDS_AT_END
        for outlet in self._outlets:
            outlet.finish(deadline)

    def _claims_failure(self) -> bool:
        try:
            (self._run / _TOLD).touch(exist_ok=False)
        except FileExistsError:
            return False
        except OSError:  # a full disk, perhaps: told twice is better than not at all
            return True
        return True


def run_command(words: list[str], text: str, seconds: float) -> None:
    """Run a program with `text` on its standard input; what it prints goes nowhere.

    Raises:
        AlertError: it can't be started, fails, or isn't done in time, and then is killed.
    """
    try:
        # Not a pipe: a process that the program leaves behind would hold it open.
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                # Signals to the job's processes don't reach it, and it can be killed whole.
                start_new_session=True,
            )
            try:
                process.communicate(text.encode(), timeout=seconds)
            except subprocess.TimeoutExpired:
                raise AlertError(f"{words[0]} was not done in {seconds:g} s") from None
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            if process.returncode != 0:
                raise AlertError(f"{words[0]} {_end_of(process.returncode)}{_last_line(errors)}")
    except OSError as error:
        raise AlertError(f"{words[0]}: {error.strerror or error}") from None


def _end_of(status: int) -> str:
    return f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"


def _last_line(errors: Any) -> str:
    """What a program said last, if anything."""
    size = errors.seek(0, os.SEEK_END)
    errors.seek(max(0, size - 200))
    lines = errors.read().decode(errors="replace").split("\n")
    said = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f" ({''.join(sign if sign.isprintable() else ' ' for sign in said)})" if said else ""


def post(url: str, text: str, seconds: float) -> None:
    """POST `text` as JSON; no redirection is followed.

    Raises:
        AlertError: the server can't be reached, or answers with another status than 2xx. The text
            names its host alone, for the rest of a URL may be a secret.
    """
    host = urlsplit(url).hostname
    # What follows redirections, and opens files, is left out.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
    ):
        opener.add_handler(handler)
    request = urllib.request.Request(
        url, text.encode(), {"Content-Type": "application/json"}, method="POST"
    )
    try:
        answer = opener.open(request, timeout=seconds)
        assert answer is not None, "a configuration allows http and https alone"
        with answer:
            status = answer.status
    except (OSError, ValueError, HTTPException) as error:
        raise AlertError(f"{host}: {getattr(error, 'reason', error)}") from None
    if not 200 <= status < 300:
        raise AlertError(f"{host} answered with status {status}")


def plain(value: Any) -> Any:
    """A value as JSON has it: of NumPy and Paddle the number, of a float that is none its name."""
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _warn_on_stderr(line: str) -> None:
    say(line, sys.stderr)


def main() -> None:
    """Read one failure as a line of JSON, and tell it unless another process has."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)  # whoever starts this may ignore them
    told = json.loads(sys.stdin.readline())
    alerts = Alerts(told["run"], told["command"], told["url"])
    alerts.global_step = None
    alerts.failure(told["message"])


if __name__ == "__main__":
    main()
