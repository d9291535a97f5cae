"""`python -m llm_pretrain …` is `llm-pretrain …`."""

import sys

from llm_pretrain.cli import main

if __name__ == "__main__":
    sys.exit(main())
