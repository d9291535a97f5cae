"""Byte-level BPE from `vocab.json` and `merges.txt`, as GPT-2, OPT and Qwen 2 have it.

What the files don't hold (the pattern of words, the normalizer) is that of GPT-2's
`tokenization_gpt2.py`, or of Qwen 2's `tokenization_qwen2.py` where the settings name Qwen 2.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llm_pretrain.preprocess.added_tokens import AddedToken, read_added_tokens
from llm_pretrain.preprocess.errors import PreprocessError
from llm_pretrain.preprocess.hugging_face_tokenizer import END_OF_TEXT
from llm_pretrain.preprocess.qwen_tiktoken import cut_as_qwen
from llm_pretrain.preprocess.tokenizer_settings import read_json, tokenizer_class

if TYPE_CHECKING:
    from tokenizers import Tokenizer

QWEN2 = "Qwen2Tokenizer"
# Files without a class are what the library's ByteLevelBPETokenizer saves: it cuts as GPT-2.
CLASSES = frozenset({None, "GPT2Tokenizer", "GPTTokenizer", "GLMGPT2Tokenizer", QWEN2})


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
