"""run_pretrain.py, where only some ranks have the data. Usage: reading_rank.py RANKS CONFIG …

RANKS, such as "0,2", are those that find it; the others are told of a folder that isn't there.
"""

from __future__ import annotations

import os
import sys

from llm_pretrain.training.run import run

ranks, *arguments = sys.argv[1:]
if os.environ["PADDLE_TRAINER_ID"] not in ranks.split(","):
    arguments += ["--input_dir", "/nowhere/text"]
sys.exit(run(arguments))
