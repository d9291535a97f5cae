"""Texts by a table of words: the tokens are the library's, whoever cuts and looks up."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from sentencepiece import SentencePieceTrainer
from tokenizers import (
    Regex,
    Tokenizer,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from llm_pretrain.data.preprocess import (
    load_tokenizer,
    words,
)
from llm_pretrain.data.preprocess import tokenizers as own
from tests.data.preprocess.conftest import TEXTS


def ids_of(tokenizer: own.Tokenizer, texts: list[str]) -> list[list[int]]:
    encoded = tokenizer.encode_batch(texts)
    return [ids.tolist() for ids in np.split(encoded.tokens, np.cumsum(encoded.sizes))[:-1]]


# Published patterns of GPT-2, LLaMA 3 and Qwen 2.
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TRICKY = [
    *"\u2028\u3000\xa0\x85\x1c\x1f\ufeff\u200d\u0301\u0345²½Ⅷ٣①ſK\u212b\u037eé😀日本語▁<>|",
    *("s", "LL", "'s", "'S", "'ſ", "'ve", " the", " cat", "  ", " ", " ", "\n", "\r\n", "\t"),
    *("<s>", "<|x|>", "123", "12", "ünïcode"),
]


def tricky_texts(count: int) -> list[str]:
    """Texts of signs on which cutting into words could differ, and of any signs at all."""
    random = np.random.default_rng(0)
    chosen = ["".join(random.choice(TRICKY, random.integers(0, 30))) for _ in range(count)]
    codes = random.choice([*range(0xD800), *range(0xE000, 0x110000)], (count, 30))
    without_spaces = "我们的目标是建立一个公平的社会。" * 3
    edges = ["", " ", "a ", " a", without_spaces]
    return [*chosen, *(" a".join(map(chr, some)) for some in codes), *edges, *TEXTS]


def byte_level(pattern: str, normalizer: normalizers.Normalizer | None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern == GPT2)
    tokenizer.pre_tokenizer = last
    if pattern != GPT2:
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, last])
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "<|x|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def llama2(*, with_normalizer: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    # Trained word by word, as SentencePiece does, so that no token has a space inside.
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    parts = json.loads(tokenizer.to_str())
    parts["added_tokens"] = parts["added_tokens"][:3]
    if with_normalizer:
        parts["pre_tokenizer"] = None
        replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
        steps = [{"type": "Prepend", "prepend": "▁"}, replace]
        parts["normalizer"] = {"type": "Sequence", "normalizers": steps}
    else:
        parts["pre_tokenizer"]["split"] = False
    return Tokenizer.from_str(json.dumps(parts))


@pytest.mark.parametrize(
    ("saved", "by_table"),
    [
        (byte_level(GPT2, None), True),
        (byte_level(LLAMA3, None), True),
        (byte_level(QWEN2, normalizers.NFC()), True),
        (byte_level(GPT2, normalizers.NFKC()), False),
        (byte_level(QWEN2.replace("{L}", "{Lu}"), None), False),
        (llama2(with_normalizer=True), True),
        (llama2(with_normalizer=False), True),
    ],
    ids=["gpt2", "llama3", "qwen2", "unknown normalizer", "unknown pattern", "llama2", "metaspace"],
)
def test_words_give_the_tokens_of_the_library(
    tmp_path: Path, saved: Tokenizer, by_table: bool
) -> None:
    saved.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path)
    texts = tricky_texts(400)
    assert ids_of(tokenizer, texts) == [
        encoding.ids for encoding in saved.encode_batch(texts, add_special_tokens=False)
    ]
    assert (tokenizer._table is not None) == by_table


def test_token_with_an_inner_space_rules_the_table_out(tmp_path: Path) -> None:
    parts = json.loads(llama2(with_normalizer=True).to_str())
    vocabulary, merges = parts["model"]["vocab"], parts["model"]["merges"]
    for left, right in (("e", "▁"), ("e▁", "c")):
        vocabulary.setdefault(left + right, len(vocabulary))
        merges.insert(0, [left, right])
    saved = Tokenizer.from_str(json.dumps(parts))
    saved.save(str(tmp_path / "tokenizer.json"))
    expected = saved.encode("the cat", add_special_tokens=False).ids
    assert vocabulary["e▁c"] in expected
    assert ids_of(load_tokenizer(tmp_path), ["the cat"]) == [expected]


@pytest.mark.parametrize(
    ("options", "by_table"),
    [
        ({}, True),
        ({"remove_extra_whitespaces": True}, False),
        ({"normalization_rule_name": "nmt_nfkc"}, False),
        ({"user_defined_symbols": ["<x>"]}, False),
        ({"model_type": "unigram"}, False),
    ],
)
def test_words_give_the_tokens_of_sentencepiece(
    tmp_path: Path, options: dict, by_table: bool
) -> None:
    model = io.BytesIO()
    like_llama = {
        "model_type": "bpe",
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
    }
    SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS),
        model_writer=model,
        vocab_size=320,
        hard_vocab_limit=False,
        minloglevel=2,
        **(like_llama | options),
    )
    (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
    tokenizer = load_tokenizer(tmp_path)
    texts = tricky_texts(300)
    assert ids_of(tokenizer, texts) == [tokenizer.encode(text) for text in texts]
    assert (tokenizer._table is not None) == by_table


def test_full_table_begins_anew(bpe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "_MOST_WORDS", 3)
    tokenizer = load_tokenizer(bpe)
    for texts in (TEXTS[:3], ["the"], TEXTS[1:6], []):
        assert ids_of(tokenizer, texts) == [tokenizer.encode(text) for text in texts]
