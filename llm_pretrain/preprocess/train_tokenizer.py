"""A byte-level BPE tokenizer of one's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from llm_pretrain.preprocess.errors import PreprocessError

UNKNOWN, BEGIN, END = "<unk>", "<s>", "</s>"
SPECIAL_TOKENS = (UNKNOWN, BEGIN, END)
# Every byte is a token, so that any text can be encoded.
_SMALLEST_VOCABULARY = 256 + len(SPECIAL_TOKENS)


def train_bpe(texts: Iterator[str], vocab_size: int, directory: str | Path) -> Path:
    """Learn at most `vocab_size` tokens from the texts; returns the path of `tokenizer.json`.

    Writes `tokenizer.json` and `tokenizer_config.json`, which `load_tokenizer` and Hugging Face's
    libraries read. The special tokens <unk>, <s> and </s> have the ids 0, 1 and 2.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if vocab_size < _SMALLEST_VOCABULARY:
        raise PreprocessError(
            f"vocab_size is {vocab_size}; a byte-level vocabulary takes {_SMALLEST_VOCABULARY} at "
            "least."
        )
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": UNKNOWN,
        "bos_token": BEGIN,
        "eos_token": END,
    }
    text = json.dumps(config, indent=2) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
    return path
