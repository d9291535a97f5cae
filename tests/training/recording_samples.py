"""run_pretrain.py that writes down every sample it trains on, and stops itself.

Usage: recording_samples.py FOLDER STOP_AFTER CONFIG …. Each rank appends to FOLDER/<rank>.jsonl a
line [number of the sample, its tokens] for each; SIGTERM comes in micro-step STOP_AFTER of rank 0.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from llm_pretrain.data import BatchLoader
from llm_pretrain.training.run import run

folder, stop_after, *arguments = sys.argv[1:]
rank = os.environ.get("PADDLE_TRAINER_ID", "0")
take = BatchLoader.__next__
calls = 0


def recorded(self: BatchLoader):
    global calls
    calls += 1
    batch = take(self)
    with (Path(folder) / f"{rank}.jsonl").open("a") as file:
        for number, tokens in enumerate(batch.tokens.tolist(), batch.first_sample):
            file.write(json.dumps([number, tokens]) + "\n")
    if rank == "0" and calls == int(stop_after):
        os.kill(os.getpid(), signal.SIGTERM)
    return batch


BatchLoader.__next__ = recorded
sys.exit(run(arguments))
