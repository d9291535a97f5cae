"""Qwen's and ChatGLM-6B's files, against the rules that their published code states."""

from __future__ import annotations

import base64
import io
import json
import sys
import unicodedata
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from tokenizers import Regex, pre_tokenizers

from llm_pretrain.preprocess import PreprocessError, load_tokenizer

QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CORPUS = (
    "the cat sat on the mat, they'll sing: дом и домик 日本語の日本 مرحبا नमस्ते 🙂🙂  \n\n 2024 " * 3
)
SCRIPTS = [
    "the",
    " they'll",
    "домик",
    " 日本語",
    "مرحبا",
    "नमस्ते",
    "🙂",
    "  ",
    "\n",
    "1234",
    "é",
    "\t",
]


def words(text: str) -> list[bytes]:
    split = pre_tokenizers.Split(Regex(QWEN), "isolated")
    return [word.encode() for word, _ in split.pre_tokenize_str(unicodedata.normalize("NFC", text))]


def merge(parts: list[bytes], ranks: dict[bytes, int]) -> list[bytes]:
    """Tiktoken's rule: the two neighbours that make the token of the lowest rank, leftmost."""
    if b"".join(parts) in ranks:
        return [b"".join(parts)]
    while True:
        pairs = [
            (ranks[parts[i] + parts[i + 1]], i)
            for i in range(len(parts) - 1)
            if parts[i] + parts[i + 1] in ranks
        ]
        if not pairs:
            return parts
        at = min(pairs)[1]
        parts = [*parts[:at], parts[at] + parts[at + 1], *parts[at + 2 :]]


def expected_ids(text: str, ranks: dict[bytes, int]) -> list[int]:
    return [
        ranks[part]
        for word in words(text)
        for part in merge([word[i : i + 1] for i in range(len(word))], ranks)
    ]


@pytest.fixture(scope="module")
def ranks() -> dict[bytes, int]:
    """BPE learned from the corpus: 256 bytes, shuffled, then 40 tokens of the commonest pairs."""
    order = np.random.default_rng(0).permutation(256).tolist()
    ranks = {bytes([byte]): rank for rank, byte in enumerate(order)}
    corpus = [[word[i : i + 1] for i in range(len(word))] for word in words(CORPUS)]
    for _ in range(40):
        pairs = [a + b for word in corpus for a, b in pairwise(word)]
        new = max(sorted(set(pairs)), key=pairs.count)
        ranks[new] = len(ranks)
        one = {new: 0}
        corpus = [merge(word, one) for word in corpus]
    return ranks


def write_qwen(folder: Path, ranks: dict[bytes, int]) -> None:
    lines = [f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items()]
    (folder / "qwen.tiktoken").write_text("".join(lines))


def test_qwen_is_bpe_by_ranks(tmp_path: Path, ranks: dict[bytes, int]) -> None:
    write_qwen(tmp_path, ranks)
    tokenizer = load_tokenizer(tmp_path)
    random = np.random.default_rng(1)
    texts = ["".join(random.choice(SCRIPTS, random.integers(0, 20))) for _ in range(200)]
    expected = [expected_ids(text, ranks) for text in texts]
    assert [tokenizer.encode(text) for text in texts] == expected
    assert tokenizer.encode_batch(texts).tokens.tolist() == list(chain(*expected))
    for text, ids in zip(texts, expected, strict=True):
        assert tokenizer.decode(ids) == unicodedata.normalize("NFC", text)
    most_merged = {token for token, rank in ranks.items() if rank >= 256 and len(token) > 3}
    assert {ranks[token] for token in most_merged} & set(chain(*expected))


def test_qwen_takes_a_whole_word_that_no_merges_reach(
    tmp_path: Path, ranks: dict[bytes, int]
) -> None:
    ranks = {**ranks, b"zqxj": len(ranks)}
    write_qwen(tmp_path, ranks)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode("zqxj") == [ranks[b"zqxj"]]
    assert tokenizer.encode("zqxjk") == expected_ids("zqxjk", ranks)


def test_qwens_special_tokens_follow_the_ranks(tmp_path: Path, ranks: dict[bytes, int]) -> None:
    write_qwen(tmp_path, ranks)
    tokenizer = load_tokenizer(tmp_path)
    first = len(ranks)
    assert tokenizer.eos_id == first
    assert tokenizer.vocab_size == first + 208
    text = "<|endoftext|><|im_start|><|im_end|><|extra_0|><|extra_204|>"
    assert tokenizer.encode(text) == [first, first + 1, first + 2, first + 3, first + 207]
    assert tokenizer.decode([first + 207]) == "<|extra_204|>"
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<|im_end|>"}')
    assert load_tokenizer(tmp_path).eos_id == first + 2
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<eod>"}')
    with pytest.raises(PreprocessError, match=r"'<eod>', which qwen\.tiktoken doesn't have"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("IQ== 0\nrubbish\n", r"qwen\.tiktoken:2 can't be read"),
        ("IQ== 0\nIg== 2\n", "ranks must be 0, 1, 2"),
        ("IQ== 0\n", "no token for the byte 0"),
        ("version https://git-lfs.github.com/spec/v1\n", r"qwen\.tiktoken:1 can't be read"),
    ],
)
def test_damaged_qwen_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "qwen.tiktoken").write_text(text)
    with pytest.raises(PreprocessError, match=message):
        load_tokenizer(tmp_path)


@pytest.fixture(scope="module")
def ice_text() -> bytes:
    model = io.BytesIO()
    blanks = [f"<|blank_{length}|>" for length in range(2, 81)]
    SentencePieceTrainer.train(
        sentence_iterator=iter([CORPUS] * 5),
        model_writer=model,
        vocab_size=260,
        hard_vocab_limit=False,
        user_defined_symbols=["[gMASK]", "<sop>", "<eop>", "<n>", "<|tab|>", *blanks],
        minloglevel=2,
    )
    return model.getvalue()


@pytest.mark.parametrize("image_tokens", [None, 0, 7])
def test_chatglm(tmp_path: Path, ice_text: bytes, image_tokens: int | None) -> None:
    (tmp_path / "ice_text.model").write_bytes(ice_text)
    if image_tokens is not None:
        settings = {"num_image_tokens": image_tokens, "eos_token": "<eop>"}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    first = 20000 if image_tokens is None else image_tokens
    tokenizer = load_tokenizer(tmp_path)
    pieces = SentencePieceProcessor(model_proto=ice_text)
    assert tokenizer.vocab_size == first + pieces.get_piece_size()
    assert tokenizer.eos_id == first + pieces.piece_to_id("<eop>")
    text = "the cat\n\tsat" + " " * 83 + "on" + " " * 3 + "日本"
    marked = "the cat<n><|tab|>sat<|blank_80|><|blank_3|>on<|blank_3|>日本"
    expected = [first + piece for piece in pieces.encode(marked)]
    assert tokenizer.encode(text) == expected
    assert tokenizer.encode_batch([text, text]).tokens.tolist() == expected * 2
    assert tokenizer.decode(expected) == text


def test_chatglm_without_its_end_token_is_an_error(tmp_path: Path, ice_text: bytes) -> None:
    (tmp_path / "ice_text.model").write_bytes(ice_text)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<eod>"}')
    with pytest.raises(PreprocessError, match=r"no end-of-document token '<eod>'"):
        load_tokenizer(tmp_path)


def test_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "paddlenlp", None)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    (tmp_path / "vocab.txt").write_text("[UNK]")
    with pytest.raises(PreprocessError, match=r"BertTokenizer, .* 'llm_pretrain\[paddlenlp\]'"):
        load_tokenizer(tmp_path)
