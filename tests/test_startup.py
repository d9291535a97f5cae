"""From the command to the first step of the demo's model takes little beside importing Paddle."""

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
MOST = 3
"""Times the processor time that Python and Paddle take to start on this machine."""


def processor_seconds(*arguments: str) -> tuple[float, str]:
    """What Python takes for these arguments, and its output.

    The clock on the wall counts what other tests do as well, and threads spin where they wait.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stdout + done.stderr
    seconds = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return seconds, done.stdout


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
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 1,
        "do_eval": False,
        "save_strategy": "no",
    }
    path = tmp_path / "run.json"
    path.write_text(json.dumps(config))
    importing, _ = processor_seconds("-c", "import llm_pretrain, paddle")
    starting, output = processor_seconds("run_pretrain.py", str(path))
    assert "global_step: 1, " in output
    assert starting <= MOST * importing, f"{starting:.1f} s, and importing Paddle {importing:.1f} s"
