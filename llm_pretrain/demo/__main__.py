"""Runs the demo: `python -m llm_pretrain.demo [--key value …]`, the keys those of a training."""

from __future__ import annotations

import json
import math
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llm_pretrain import machine
from llm_pretrain.demo.corpus import documents, write_corpus
from llm_pretrain.demo.sample import continue_text
from llm_pretrain.monitor.console import sparkline
from llm_pretrain.monitor.metrics_log import read_metrics
from llm_pretrain.preprocess.train_tokenizer import train_bpe

CONFIG = Path("configs/llama/demo.json")
FOLDER = Path("output/demo")
PROMPT = "Return the number of"
TOKENS_TO_GENERATE = 100


def main(overrides: Sequence[str]) -> int:
    """Make the data where there is none, train, and say what came out; the exit status."""
    if not CONFIG.exists():
        print(f"error: {CONFIG} is not here; run the demo in the repository's root.")
        return 1
    config = json.loads(CONFIG.read_text(encoding="utf-8"))
    model = json.loads(Path(config["model_name_or_path"], "config.json").read_text("utf-8"))
    status = make_data(config, model["vocab_size"]) or run(
        ["-m", "paddle.distributed.launch", "--nproc_per_node", str(processes())],
        ["--log_level", "WARNING", "--log_dir", str(FOLDER / "log")],
        ["run_pretrain.py", str(CONFIG), *overrides],
    )
    if status:
        return status
    show_results(Path(config["output_dir"]), model["vocab_size"])
    print(f"\nThe curves: visualdl --logdir {config['logging_dir']}")
    return 0


def make_data(config: dict[str, Any], vocab_size: int) -> int:
    """Corpus, tokenizer and token files, where an earlier call has not left them; exit status."""
    prefix = Path(config["input_dir"], "demo")
    tokenizer = config["tokenizer_name_or_path"]
    if prefix.with_suffix(".idx").exists():
        return 0
    corpus = FOLDER / "corpus.jsonl"
    prefix.parent.mkdir(parents=True, exist_ok=True)
    texts = documents()
    write_corpus(corpus, texts)
    characters = sum(len(text) for text in texts)
    print(f"{corpus}: {characters:,} characters of Python's own documentation", flush=True)
    train_bpe(iter(texts), vocab_size, tokenizer)
    print(f"{tokenizer}: a byte-pair vocabulary of {vocab_size} tokens", flush=True)
    return run(
        ["-m", "llm_pretrain.cli", "preprocess", "--model_name_or_path", tokenizer],
        ["--input_path", str(corpus), "--output_prefix", str(prefix)],
        ["--append_eos", "--workers", "2"],
    )


def run(*parts: Sequence[str]) -> int:
    """Show a command and run it with this Python; its exit status."""
    words = [word for part in parts for word in part]
    print(f"\n$ python {shlex.join(words)}", flush=True)
    environment = machine.environment_without_choices()
    environment.setdefault("PYTHONWARNINGS", "ignore:No ccache found")
    # Paddle's launcher stops at an empty list of GPUs; without the variable it finds none.
    if not environment.get("CUDA_VISIBLE_DEVICES", "unset"):
        del environment["CUDA_VISIBLE_DEVICES"]
    return subprocess.run([sys.executable, *words], env=environment, check=False).returncode


def processes() -> int:
    """Two, except on a machine with a single GPU."""
    import paddle

    gpus = paddle.device.cuda.device_count() if paddle.device.is_compiled_with_cuda() else 0
    return 1 if gpus == 1 else 2


def show_results(directory: Path, vocab_size: int) -> None:
    """Losses, where the weights are, and a text by them."""
    history = read_metrics(directory)
    losses = [line["loss"] for line in history if line.get("loss") is not None]
    evaluations = [line["eval_loss"] for line in history if line.get("eval_loss") is not None]
    guess = math.log(vocab_size)
    print()
    if losses:
        print(f"training loss    {losses[0]:.3f} {sparkline(losses)} {losses[-1]:.3f}")
    if evaluations:
        print(f"evaluation loss  {evaluations[-1]:.3f}")
        print(f"a blind guess    {guess:.3f} = ln({vocab_size}), and half of it {guess / 2:.3f}")
    print(f"weights          {directory}, as Hugging Face's libraries load them")
    for checkpoint in sorted(directory.glob("checkpoint-*")):
        print(f"checkpoint       {checkpoint}, to resume from")
    print(f"\n{continue_text(directory, PROMPT, TOKENS_TO_GENERATE)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
