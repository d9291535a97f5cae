"""run_pretrain.py, with a fault on one rank. Usage: failing_rank.py RANK FAULT CONFIG …

FAULT is "raise" (an exception in the third step), "kill" (the process dies there), "signal"
(SIGTERM arrives there, on that rank alone), "stop" (SIGSTOP does), "loop" (an endless loop begins
there), "read" (a read that never returns), "slow" (each step takes longer), or "slow data" (its
data takes 20 seconds to open). With " over Gloo" behind it the ranks share no memory.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from llm_pretrain.parallel.comm import shared_memory
from llm_pretrain.parallel.sharding.optimizer import ShardedAdamW
from llm_pretrain.training import run

OVER_GLOO = " over Gloo"
rank, fault, *arguments = sys.argv[1:]
if fault.endswith(OVER_GLOO):
    fault = fault.removesuffix(OVER_GLOO)
    shared_memory.join = lambda *_: None
is_faulty = os.environ.get("PADDLE_TRAINER_ID", "0") == rank
build_datasets = run.build_datasets
reduce_gradients = ShardedAdamW.reduce_gradients
SIGNALS = {"kill": signal.SIGKILL, "signal": signal.SIGTERM, "stop": signal.SIGSTOP}
calls = 0


def slow_datasets(*positional, **named):
    time.sleep(20)
    return build_datasets(*positional, **named)


def faulty_reduction(*positional, **named):
    global calls
    calls += 1
    if fault == "slow" and is_faulty:
        time.sleep(2)
    elif calls == 3 and is_faulty:
        if fault == "raise":
            raise ArithmeticError("the planted fault")
        while fault == "loop":
            pass
        if fault == "read":
            reader, _ = os.pipe()
            os.read(reader, 1)
        os.kill(os.getpid(), SIGNALS[fault])
    return reduce_gradients(*positional, **named)


if fault == "slow data" and is_faulty:
    run.build_datasets = slow_datasets
elif fault != "slow data":
    ShardedAdamW.reduce_gradients = faulty_reduction
sys.exit(run.run(arguments))
