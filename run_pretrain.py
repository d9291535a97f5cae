"""What `python -m paddle.distributed.launch` runs: run_pretrain.py CONFIG.json [--key value …]."""

import sys

from llm_pretrain.cli import main

sys.exit(main(["train", *sys.argv[1:]]))
