"""Stands for a rank beside its watch. Usage: watched_rank.py SETTINGS, the rest as on its watch.

It prints the watch's process id, then what the watch says; what it reads goes to the watch.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from llm_pretrain.parallel.comm.heartbeat import command

place = json.loads(sys.argv[1]).get("place_file")
watch = subprocess.Popen(
    command(),
    stdin=subprocess.PIPE,
    text=True,
    pass_fds=() if place is None else (place,),
)
assert watch.stdin is not None
print(watch.pid, flush=True)
print(sys.argv[1], file=watch.stdin, flush=True)
for line in sys.stdin:
    print(line, end="", file=watch.stdin, flush=True)
    if line == "done\n":
        sys.exit(watch.wait())
