"""run_pretrain.py, with a fault on one rank. Usage: failing_rank.py RANK FAULT CONFIG …

FAULT is "raise" (an exception in the third step), "kill" (the process dies there), or "signal"
(SIGTERM arrives there, on that rank alone).
"""

from __future__ import annotations

import os
import signal
import sys

from llm_pretrain.parallel.sharding.optimizer import ShardedAdamW
from llm_pretrain.training.run import run

rank, fault, *arguments = sys.argv[1:]
step = ShardedAdamW.step
calls = 0


def faulty_step(*positional, **named):
    global calls
    calls += 1
    if calls == 3 and os.environ.get("PADDLE_TRAINER_ID", "0") == rank:
        if fault == "raise":
            raise ArithmeticError("the planted fault")
        os.kill(os.getpid(), signal.SIGKILL if fault == "kill" else signal.SIGTERM)
    return step(*positional, **named)


ShardedAdamW.step = faulty_step
sys.exit(run(arguments))
