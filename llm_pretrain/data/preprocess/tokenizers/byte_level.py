"""Byte-level BPE: from `vocab.json` and `merges.txt`, from `qwen.tiktoken`, or trained from texts.

What the first two files don't hold (the pattern of words, the normalizer) is that of GPT-2's
`tokenization_gpt2.py`, or of Qwen 2's `tokenization_qwen2.py` where the settings name Qwen 2.

`qwen.tiktoken` is Qwen's first tokenizer, given by the ranks of its tokens: each line is a token's
bytes in base64 and its rank, which is its id. What is not in the file (the pattern of words, the
special tokens and their ids) is that of Qwen's `tokenization_qwen.py`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from llm_pretrain.data.preprocess.streams import PreprocessError
from llm_pretrain.data.preprocess.tokenizers.settings import (
    AddedToken,
    read_added_tokens,
    read_json,
    tokenizer_class,
)
from llm_pretrain.data.preprocess.word_split import QWEN_PATTERN, signs_of_bytes

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END_OF_TEXT = "<|endoftext|>"
QWEN2 = "Qwen2Tokenizer"
# Files without a class are what the library's ByteLevelBPETokenizer saves: it cuts as GPT-2.
BYTE_LEVEL_CLASSES = frozenset({None, "GPT2Tokenizer", "GPTTokenizer", "GLMGPT2Tokenizer", QWEN2})
# Qwen's: their ids follow the largest rank, 151643 and on where the published file is read.
_QWEN_SPECIAL = (
    END_OF_TEXT,
    "<|im_start|>",
    "<|im_end|>",
    *(f"<|extra_{number}|>" for number in range(205)),
)
UNKNOWN, BEGIN, END = "<unk>", "<s>", "</s>"
SPECIAL_TOKENS = (UNKNOWN, BEGIN, END)
# Every byte is a token, so that any text can be encoded.
_SMALLEST_VOCABULARY = 256 + len(SPECIAL_TOKENS)


def read_byte_level(path: Path) -> Tokenizer:
    """The tokenizer of a `vocab.json`. Raises PreprocessError."""
    from tokenizers import AddedToken as Added
    from tokenizers import Tokenizer, decoders, models
    from tokenizers import pre_tokenizers as pre

    merges_path = path.with_name("merges.txt")
    try:
        vocabulary, merges = models.BPE.read_file(str(path), str(merges_path))
        added = read_added_tokens(path.parent)
        added.setdefault(END_OF_TEXT, AddedToken(END_OF_TEXT, normalized=False, special=True))
        ids = _ids(added, vocabulary, path)
        # With their ids beforehand: the library would number them one after another.
        tokenizer = Tokenizer(models.BPE(vocabulary | ids, merges))
    except PreprocessError:
        raise
    except Exception as error:  # the library raises no other
        raise PreprocessError(f"{path} and {merges_path.name} can't be read: {error}") from error
    missing = pre.ByteLevel.alphabet() - vocabulary.keys()
    if missing:
        raise PreprocessError(
            f"{path} isn't a vocabulary of byte-level BPE: it lacks the byte {min(missing)!r} and "
            f"{len(missing) - 1} others."
        )
    if tokenizer_class(path.parent) == QWEN2:
        cut_as_qwen(tokenizer)
    else:
        settings = read_json(path.with_name("tokenizer_config.json"))
        prefix = bool(settings.get("add_prefix_space"))
        tokenizer.pre_tokenizer = pre.ByteLevel(add_prefix_space=prefix)
        tokenizer.decoder = decoders.ByteLevel()
    for token in map(added.__getitem__, ids):
        ways = {
            "lstrip": token.lstrip,
            "rstrip": token.rstrip,
            "single_word": token.single_word,
            "normalized": token.normalized,
        }
        add = tokenizer.add_special_tokens if token.special else tokenizer.add_tokens
        add([Added(token.content, special=token.special, **ways)])
    return tokenizer


def _ids(added: dict[str, AddedToken], vocabulary: dict[str, int], path: Path) -> dict[str, int]:
    """Ids of the added tokens that have one, which must not be those of other tokens."""
    names = {number: content for content, number in vocabulary.items()}
    ids = {}
    for content, token in added.items():
        number = vocabulary.get(content) if token.id is None else token.id
        if number is None:
            continue
        if names.get(number, content) != content or vocabulary.get(content, number) != number:
            raise PreprocessError(
                f"The files beside {path} give the token {content!r} the id {number}, which isn't "
                f"its own in {path.name}."
            )
        ids[content] = number
    return ids


def read_qwen_tiktoken(path: Path) -> Tokenizer:
    """The same tokenizer as one of the library `tokenizers`. Raises PreprocessError."""
    from tokenizers import AddedToken, Tokenizer, models

    ranks = _read_ranks(path)
    signs = signs_of_bytes()
    vocabulary = {"".join(signs[byte] for byte in token): rank for token, rank in ranks.items()}
    # A token that is a whole word is taken as it is, as tiktoken does.
    tokenizer = Tokenizer(models.BPE(vocabulary, _merges(vocabulary), ignore_merges=True))
    cut_as_qwen(tokenizer)
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in _QWEN_SPECIAL]
    )
    return tokenizer


def cut_as_qwen(tokenizer: Tokenizer) -> None:
    """Gives the tokenizer the normalizer, words and decoder of all Qwen models."""
    from tokenizers import Regex, decoders, normalizers
    from tokenizers import pre_tokenizers as pre

    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre.Sequence(
        [
            pre.Split(Regex(QWEN_PATTERN), "isolated"),
            pre.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()


def _read_ranks(path: Path) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line:
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except ValueError as error:
            raise PreprocessError(
                f"{path}:{number} can't be read: expected is a token in base64 and its rank."
            ) from error
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise PreprocessError(f"{path} is damaged: its ranks must be 0, 1, 2, …, each once.")
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise PreprocessError(f"{path} is damaged: it has no token for the byte {missing[0]}.")
    return ranks


def _merges(vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """All pairs of tokens that make a token, in the order of its rank: tiktoken joins any."""
    pairs = [
        (rank, token[:cut], token[cut:])
        for token, rank in vocabulary.items()
        for cut in range(1, len(token))
        if token[:cut] in vocabulary and token[cut:] in vocabulary
    ]
    return [(left, right) for _, left, right in sorted(pairs, key=lambda pair: pair[0])]


def check_vocab_size(vocab_size: int) -> None:
    """Raise PreprocessError where all bytes and the special tokens have no room."""
    if vocab_size < _SMALLEST_VOCABULARY:
        raise PreprocessError(
            f"vocab_size is {vocab_size}; a byte-level vocabulary takes {_SMALLEST_VOCABULARY} at "
            "least."
        )


def train_bpe(
    texts: Iterator[str],
    vocab_size: int,
    directory: str | Path,
    *,
    pattern: str | None = None,
    show_progress: bool = False,
) -> Path:
    """Learn at most `vocab_size` tokens from the texts; returns the path of `tokenizer.json`.

    Args:
        pattern: finds the words, of which a token is a part; None is GPT-2's.
        show_progress: the library's bars on the standard error.

    Writes `tokenizer.json` and `tokenizer_config.json`, which `load_tokenizer` and Hugging Face's
    libraries read. The special tokens <unk>, <s> and </s> have the ids 0, 1 and 2.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, trainers
    from tokenizers import pre_tokenizers as pre

    check_vocab_size(vocab_size)
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    bytes_of_words = pre.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    if pattern is None:
        tokenizer.pre_tokenizer = bytes_of_words
    else:
        split = pre.Split(Regex(pattern), "isolated")
        tokenizer.pre_tokenizer = pre.Sequence([split, bytes_of_words])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre.ByteLevel.alphabet(),
        show_progress=show_progress,
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
