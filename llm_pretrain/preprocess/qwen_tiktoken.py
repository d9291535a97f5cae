"""Qwen's first tokenizer, `qwen.tiktoken`: byte-level BPE given by the ranks of its tokens.

Each line is a token's bytes in base64 and its rank, which is its id. What is not in the file (the
pattern of words, the special tokens and their ids) is that of Qwen's `tokenization_qwen.py`.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING

from llm_pretrain.preprocess.byte_signs import signs_of_bytes
from llm_pretrain.preprocess.errors import PreprocessError
from llm_pretrain.preprocess.hugging_face_tokenizer import END_OF_TEXT
from llm_pretrain.preprocess.word_split import QWEN_PATTERN

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Their ids follow the largest rank: 151643 and on, where the published file is read.
_SPECIAL = (
    END_OF_TEXT,
    "<|im_start|>",
    "<|im_end|>",
    *(f"<|extra_{number}|>" for number in range(205)),
)


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
        [AddedToken(token, special=True, normalized=False) for token in _SPECIAL]
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
