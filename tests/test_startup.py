"""From the command to the first step of the demo's model: at most 8 seconds on one process."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np

from llm_pretrain.data import IndexedWriter

ROOT = Path(__file__).parent.parent
MOST_SECONDS = 8


def test_the_first_step_comes_soon(tmp_path: Path) -> None:
    config = json.loads((ROOT / "configs/llama/demo.json").read_text(encoding="utf-8"))
    tokens = np.random.default_rng(0).integers(0, 512, 200_000)
    data = tmp_path / "data"
    data.mkdir()
    with IndexedWriter(data / "random", np.uint16) as writer:
        writer.add_documents(tokens, np.full(200, 1000, dtype=np.int32))
    config |= {
        "tokenizer_name_or_path": config["model_name_or_path"],
        "input_dir": str(data),
        "output_dir": str(tmp_path / "run"),
        "max_steps": 1,
        "do_eval": False,
        "save_strategy": "no",
    }
    path = tmp_path / "run.json"
    path.write_text(json.dumps(config))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "run_pretrain.py", path],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "global_step: 1, " in done.stdout
    # Processor time, for the clock on the wall counts what other tests do as well.
    seconds = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    assert seconds <= MOST_SECONDS, f"{seconds:.1f} s of processor time"
