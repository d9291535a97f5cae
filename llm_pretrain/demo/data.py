"""The demo's data: `python -m llm_pretrain.demo.data` makes it without training."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llm_pretrain import machine
from llm_pretrain.demo.corpus import documents, write_corpus
from llm_pretrain.preprocess.train_tokenizer import train_bpe

CONFIG = Path("configs/llama/demo.json")
FOLDER = Path("output/demo")


def make_data() -> int:
    """Corpus, tokenizer and token files, where an earlier call has not left them; exit status."""
    config = json.loads(CONFIG.read_text(encoding="utf-8"))
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
    train_bpe(iter(texts), vocab_size(config), tokenizer)
    print(f"{tokenizer}: a byte-pair vocabulary of {vocab_size(config)} tokens", flush=True)
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


def vocab_size(config: dict[str, Any]) -> int:
    path = Path(config["model_name_or_path"], "config.json")
    return int(json.loads(path.read_text(encoding="utf-8"))["vocab_size"])


if __name__ == "__main__":
    sys.exit(make_data())
