"""Directories of tokenizers, trained on a few lines, to be compared with other programs'."""

from __future__ import annotations

import io
import json
import subprocess
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from tokenizers import ByteLevelBPETokenizer

from llm_pretrain.data.preprocess import load_tokenizer

END = "<|endoftext|>"
LINES = ["the cat sat on the mat", "philosophy, the Log", "ünïcode 日本語 too  two", "Don't 123"]
PLAIN = [*LINES, "they'll see  2024\n\n\tthe end ", "🙂\x00 é e\u0301", ""]
_SCRIPT = Path(__file__).with_name("peer_tokenize.py")


def write_byte_level(folder: Path, special: Sequence[str]) -> int:
    """Writes vocab.json and merges.txt; returns the number of tokens."""
    folder.mkdir(parents=True)
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(
        LINES, 330, min_frequency=1, special_tokens=list(special), show_progress=False
    )
    tokenizer.save_model(str(folder))
    return tokenizer.get_vocab_size()


def write_sentencepiece(path: Path, symbols: Sequence[str] = (), **options: Any) -> int:
    """Writes the model, of LLaMA's kind without `options`; returns the number of pieces."""
    path.parent.mkdir(parents=True)
    like_llama = {
        "model_type": "bpe",
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
    }
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(LINES * 5),
        model_writer=model,
        vocab_size=380,
        hard_vocab_limit=False,
        user_defined_symbols=list(symbols),
        minloglevel=2,
        **(like_llama | options),
    )
    path.write_bytes(model.getvalue())
    return SentencePieceProcessor(model_proto=model.getvalue()).get_piece_size()


def write_settings(folder: Path, **settings: object) -> None:
    """Writes each argument as a JSON file."""
    for name, content in settings.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


def run_peer_tokenizers(
    python: Path, module: str, directory: Path, texts: dict[str, list[str]]
) -> None:
    """Have the other program tokenize `texts`, by folder of `directory` (see peer_tokenize.py)."""
    for folder, some in texts.items():
        (directory / folder / "texts.json").write_text(json.dumps(some))
    command = [str(python), str(_SCRIPT), module, str(directory)]
    peer = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert peer.returncode == 0, peer.stderr[-3000:]


def assert_same_tokens(folder: Path) -> None:
    """This program gives the ids, the size and the end-of-document token of the other one."""
    texts = json.loads((folder / "texts.json").read_text())
    theirs = json.loads((folder / "theirs.json").read_text())
    tokenizer = load_tokenizer(folder)
    ours = {text: tokenizer.encode(text) for text in texts}
    assert ours == dict(zip(texts, theirs["ids"], strict=True))
    assert tokenizer.encode_batch(texts).tokens.tolist() == list(chain(*theirs["ids"]))
    assert (tokenizer.vocab_size, tokenizer.eos_id) == (theirs["size"], theirs["eos"])
