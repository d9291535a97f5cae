"""Runs the demo: `python -m llm_pretrain.demo [--key value …]`, the keys those of a training."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from llm_pretrain.demo.data import CONFIG, FOLDER, make_data, run, vocab_size
from llm_pretrain.demo.sample import continue_text
from llm_pretrain.monitor.console import sparkline
from llm_pretrain.monitor.metrics_log import read_metrics

PROMPT = "Return the number of"
TOKENS_TO_GENERATE = 100


def main(overrides: Sequence[str]) -> int:
    """Make the data where there is none, train, and say what came out; the exit status."""
    if not CONFIG.exists():
        print(f"error: {CONFIG} is not here; run the demo in the repository's root.")
        return 1
    status = make_data() or run(
        ["-m", "paddle.distributed.launch", "--nproc_per_node", str(processes())],
        ["--log_level", "WARNING", "--log_dir", str(FOLDER / "log")],
        ["run_pretrain.py", str(CONFIG), "--overwrite_output_dir", *overrides],
    )
    if status:
        return status
    config = json.loads(CONFIG.read_text(encoding="utf-8"))
    show_results(Path(config["output_dir"]), vocab_size(config))
    print(f"\nThe curves: visualdl --logdir {config['output_dir']}/runs")
    return 0


def processes() -> int:
    """Two, except on a machine with a single GPU."""
    import paddle

    gpus = paddle.device.cuda.device_count() if paddle.device.is_compiled_with_cuda() else 0
    return 1 if gpus == 1 else 2


def show_results(directory: Path, tokens: int) -> None:
    """Losses, where the weights are, and a text by them."""
    history = read_metrics(directory)
    losses = [line["loss"] for line in history if line.get("loss") is not None]
    evaluations = [line["eval_loss"] for line in history if line.get("eval_loss") is not None]
    guess = math.log(tokens)
    print()
    if losses:
        print(f"training loss    {losses[0]:.3f} {sparkline(losses)} {losses[-1]:.3f}")
    if evaluations:
        print(f"evaluation loss  {evaluations[-1]:.3f}")
        print(f"a blind guess    {guess:.3f} = ln({tokens}), and half of it {guess / 2:.3f}")
    print(f"weights          {directory}, as Hugging Face's libraries load them")
    for checkpoint in sorted(directory.glob("checkpoint-*")):
        print(f"checkpoint       {checkpoint}, to resume from")
    print(f"\n{continue_text(directory, PROMPT, TOKENS_TO_GENERATE)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
