"""Texts in scripts without spaces: the tokens are the library's, whoever makes them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from llm_pretrain.data.preprocess import load_tokenizer
from llm_pretrain.data.preprocess.tokenizers.hugging_face_tokenizer import HuggingFaceTokenizer
from llm_pretrain.data.preprocess.wide_text import PairTable
from llm_pretrain.data.preprocess.word_split import QWEN_PATTERN, signs_of_bytes

# Characters that share their first or last bytes, so that merges of parts of them are learned.
SIMILAR = [chr(code) for code in (*range(0x4E00, 0x4E0C), *range(0x4E40, 0x4E4C), 0x5E00, 0x5F00)]
COMMON = [*"的是我们一个公平社会，。！？", *SIMILAR, *"ひらがなカタカナ", *"한국어", *"ภาษาไทย"]
ODD = [*" \n\u3000\ufeff\u2028aé😀𠀀\u0301①９", "hello", " the", "12", "——————" * 4, "哈" * 40]
RARE = [chr(code) for code in range(0x800, 0x10000, 397) if not 0xD800 <= code < 0xE000]


def texts(seed: int, count: int) -> Iterator[str]:
    """Texts of common characters, some of them more often than others, with odd ones between."""
    random = np.random.default_rng(seed)
    phrases = ["".join(random.choice(COMMON, random.integers(1, 5))) for _ in range(60)]
    chances = [0.7, 0.2, 0.07, 0.03]
    for _ in range(count):
        kinds = random.choice(4, random.integers(0, 60), p=chances)
        sources = [phrases, COMMON, ODD, RARE]
        # The squares prefer what is at the beginning of a list.
        yield "".join(
            sources[kind][int(random.random() ** 2 * len(sources[kind]))] for kind in kinds
        )


def byte_level(vocabulary: int, *, qwen: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not qwen)
    tokenizer.pre_tokenizer = last
    if qwen:
        tokenizer.normalizer = normalizers.NFC()
        split = pre_tokenizers.Split(Regex(QWEN_PATTERN), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, last])
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(1, 600), trainer)
    return tokenizer


def metaspace(vocabulary: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))],
        limit_alphabet=60,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(1, 600), trainer)
    parts = json.loads(tokenizer.to_str())
    parts["added_tokens"] = parts["added_tokens"][:1]
    parts["pre_tokenizer"]["split"] = False
    return Tokenizer.from_str(json.dumps(parts))


def with_merges(
    tokenizer: Tokenizer, *, ignore_merges: bool = False, move: int | None = None
) -> Tokenizer:
    """The last merge put at `move`, before those that make its parts."""
    parts = json.loads(tokenizer.to_str())
    parts["model"]["ignore_merges"] = ignore_merges
    if move is not None:
        parts["model"]["merges"].insert(move, parts["model"]["merges"].pop())
    return Tokenizer.from_str(json.dumps(parts))


def load(folder: Path, saved: Tokenizer) -> HuggingFaceTokenizer:
    saved.save(str(folder / "tokenizer.json"))
    tokenizer = load_tokenizer(folder)
    assert isinstance(tokenizer, HuggingFaceTokenizer)
    return tokenizer


@pytest.mark.parametrize(
    ("saved", "by_characters"),
    [
        (byte_level(300, qwen=False), True),
        (byte_level(600, qwen=False), True),
        (byte_level(3000, qwen=True), True),
        (metaspace(500), True),
        (metaspace(2000), True),
        (with_merges(byte_level(600, qwen=True), ignore_merges=True), False),
        (with_merges(byte_level(600, qwen=True), move=0), False),
    ],
    ids=["300", "600", "qwen", "few characters", "metaspace", "whole words", "merges out of order"],
)
def test_tokens_are_the_library_s(tmp_path: Path, saved: Tokenizer, by_characters: bool) -> None:
    tokenizer = load(tmp_path, saved)
    some = [*texts(2, 1500), "", "我", " ", "我们 of the 公平", "一" * 100, "\ufffd"]
    expected = [encoded.ids for encoded in saved.encode_batch(some, add_special_tokens=False)]
    ragged = tokenizer.encode_batch(some)
    found = np.split(ragged.tokens, np.cumsum(ragged.sizes)[:-1])
    for text, own, ids in zip(some, found, expected, strict=True):
        assert own.tolist() == ids, text
    assert (tokenizer._wide is not None) == by_characters


def test_character_that_is_taken_apart_from_one_side(tmp_path: Path) -> None:
    """Alone 袖 is a token before 一 could take its first bytes, but 子 takes its last one first."""
    sleeve, child, one = ("".join(signs_of_bytes()[b] for b in c.encode()) for c in "袖子一")
    merges = [
        *((one[0], one[1]), (one[:2], one[2]), (child[0], child[1]), (child[:2], child[2])),
        *((sleeve[0], sleeve[1]), (sleeve[2], child), (sleeve[:2], sleeve[2]), (one, sleeve[:2])),
        *((child, sleeve), (sleeve, one)),
    ]
    tokens = [*signs_of_bytes(), *map("".join, merges)]
    saved = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, merges))
    saved.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = load(tmp_path, saved)
    for text in ("一袖子", "一袖", "袖子", "子一袖一", "一袖一子袖子"):
        assert tokenizer.encode_batch([text]).tokens.tolist() == saved.encode(text).ids
    assert tokenizer._wide is not None


def test_most_of_a_text_needs_no_library(tmp_path: Path) -> None:
    """Whether it is fast, told without a clock."""
    tokenizer = load(tmp_path, byte_level(3000, qwen=True))
    some = list(texts(2, 1500))
    assert tokenizer._wide is not None
    asked: list[str] = []
    encode_words = tokenizer._wide._table.encode_words

    def counting(words: list[str]) -> object:
        asked.extend(words)
        return encode_words(words)

    tokenizer._wide._table.encode_words = counting  # type: ignore[method-assign, assignment]
    tokenizer.encode_batch([text for text in some if len(text.encode()) > 2 * len(text)])
    assert sum(map(len, asked)) < 0.5 * sum(map(len, some))


@pytest.mark.parametrize("count", [0, 1, 7, 20000])
def test_pairs_are_found_as_in_a_dictionary(count: int) -> None:
    random = np.random.default_rng(0)
    # Ids near one another and far apart; most pairs that are asked for are not there.
    shape = 2, count + 50
    lefts, rights = random.choice([0, 1000, 1 << 30], shape) + random.integers(0, 200, shape)
    merges = {
        pair: (rank, 2 * rank)
        for rank, pair in enumerate(
            zip(lefts[:count].tolist(), rights[:count].tolist(), strict=True)
        )
    }
    found, ranks, tokens = PairTable(merges).find(lefts, rights)
    pairs = list(zip(lefts.tolist(), rights.tolist(), strict=True))
    expected = [(number, *merges[pair]) for number, pair in enumerate(pairs) if pair in merges]
    assert list(zip(found.tolist(), ranks.tolist(), tokens.tolist(), strict=True)) == expected
