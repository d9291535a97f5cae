from __future__ import annotations

import subprocess
import sys


def test_data_and_preprocess_start_without_paddle() -> None:
    program = (
        "import sys, llm_pretrain.data, llm_pretrain.preprocess\n"
        "heavy = {'paddle', 'tokenizers', 'sentencepiece', 'visualdl', 'rich'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
