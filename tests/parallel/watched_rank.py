"""Stands for a rank beside its watch. Usage: watched_rank.py SETTINGS, the rest as on its watch.

It prints the watch's process id, then what the watch says; what it reads goes to the watch.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PARALLEL = Path(__file__).parents[2] / "llm_pretrain" / "parallel"
HEARTBEAT = PARALLEL / "comm" / "heartbeat.py"
assert HEARTBEAT.is_file()

watch = subprocess.Popen([sys.executable, "-I", str(HEARTBEAT)], stdin=subprocess.PIPE, text=True)
assert watch.stdin is not None
print(watch.pid, flush=True)
print(sys.argv[1], file=watch.stdin, flush=True)
for line in sys.stdin:
    print(line, end="", file=watch.stdin, flush=True)
    if line == "done\n":
        sys.exit(watch.wait())
