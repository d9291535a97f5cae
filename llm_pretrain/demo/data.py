"""The demo's data: `python -m llm_pretrain.demo.data` makes it without training."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from llm_pretrain.demo.command import run
from llm_pretrain.demo.corpus import documents, write_corpus
from llm_pretrain.machine import SIGNAL_STATUS
from llm_pretrain.preprocess import train_bpe

CONFIG = Path("configs/llama/demo.json")
FOLDER = Path("output/demo")


def make_data() -> int:
    """Corpus, tokenizer and token files, where no earlier call has finished them; exit status."""
    config = json.loads(CONFIG.read_text(encoding="utf-8"))
    prefix = Path(config["input_dir"], "demo")
    tokenizer = Path(config["tokenizer_name_or_path"])
    corpus = FOLDER / "corpus.jsonl"
    pair = (prefix.with_suffix(".bin"), prefix.with_suffix(".idx"))
    # The pair is written last, and gets its names when it is whole.
    if all(path.exists() for path in (corpus, tokenizer / "tokenizer.json", *pair)):
        return 0
    # Of data that are half made nothing is kept.
    for folder in (prefix.parent, tokenizer):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    texts = documents()
    write_corpus(corpus, texts)
    characters = sum(len(text) for text in texts)
    print(f"{corpus}: {characters:,} characters of Python's own documentation", flush=True)
    train_bpe(iter(texts), vocab_size(config), tokenizer)
    print(f"{tokenizer}: a byte-pair vocabulary of {vocab_size(config)} tokens", flush=True)
    return run(
        ["-m", "llm_pretrain.cli", "preprocess", "--model_name_or_path", str(tokenizer)],
        ["--input_path", str(corpus), "--output_prefix", str(prefix)],
        ["--append_eos", "--workers", "2"],
    )


def vocab_size(config: dict[str, Any]) -> int:
    path = Path(config["model_name_or_path"], "config.json")
    return int(json.loads(path.read_text(encoding="utf-8"))["vocab_size"])


if __name__ == "__main__":
    try:
        sys.exit(make_data())
    except KeyboardInterrupt:
        sys.exit(SIGNAL_STATUS + signal.SIGINT)
