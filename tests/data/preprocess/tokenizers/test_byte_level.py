"""`vocab.json` and `merges.txt`, and `qwen.tiktoken` against the rules of its published code."""

from __future__ import annotations

import base64
import json
import unicodedata
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import ByteLevelBPETokenizer, Regex, pre_tokenizers

from llm_pretrain.data.preprocess import PreprocessError, Tokenizer, find_tokenizer, load_tokenizer

END = "<|endoftext|>"
TEXTS = ["the cat sat on the mat", "they'll count 123 cats", "ünïcode 日本語  \n two"]
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
SPECIAL = ["<s>", "<pad>", "</s>", END]


@pytest.fixture
def saved() -> ByteLevelBPETokenizer:
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(
        TEXTS, vocab_size=300, min_frequency=1, special_tokens=SPECIAL, show_progress=False
    )
    return tokenizer


def load(folder: Path, saved: ByteLevelBPETokenizer, **settings: object) -> Tokenizer:
    saved.save_model(str(folder))
    for name, content in settings.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return load_tokenizer(folder)


def test_files_alone_are_gpt2(tmp_path: Path, saved: ByteLevelBPETokenizer) -> None:
    tokenizer = load(tmp_path, saved)
    assert find_tokenizer(tmp_path) == tmp_path / "vocab.json"
    for text in TEXTS:
        assert tokenizer.encode(text) == saved.encode(text).ids
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode_batch(TEXTS[:2]).tokens.tolist() == [
        token for text in TEXTS[:2] for token in saved.encode(text).ids
    ]
    assert tokenizer.vocab_size == 300
    assert tokenizer.eos_id == 3
    assert tokenizer.encode(f"cat{END}cat") == [
        *tokenizer.encode("cat"),
        3,
        *saved.encode("cat").ids,
    ]


@pytest.mark.parametrize("class_name", ["GPT2Tokenizer", "GPTTokenizer", "GPT2TokenizerFast"])
def test_no_begin_token_is_added(
    tmp_path: Path, saved: ByteLevelBPETokenizer, class_name: str
) -> None:
    """OPT's settings ask for one."""
    opt = {"tokenizer_class": class_name, "add_bos_token": True, "pad_token": "<pad>"}
    names = dict.fromkeys(["bos_token", "eos_token", "unk_token"], "</s>")
    tokenizer = load(tmp_path, saved, tokenizer_config=opt | names)
    assert tokenizer.encode(TEXTS[0]) == saved.encode(TEXTS[0]).ids
    assert tokenizer.eos_id == 2
    assert tokenizer.encode("<pad></s>") == [1, 2]


def test_prefix_space(tmp_path: Path, saved: ByteLevelBPETokenizer) -> None:
    tokenizer = load(tmp_path, saved, tokenizer_config={"add_prefix_space": True})
    assert tokenizer.encode("the cat") == saved.encode(" the cat").ids


@pytest.mark.parametrize(
    "settings",
    [
        {"tokenizer_config": {"tokenizer_class": "Qwen2Tokenizer"}},
        {"tokenizer_config": {"tokenizer_class": "Qwen2TokenizerFast"}},
        {"config": {"model_type": "qwen2"}},
    ],
    ids=["class", "fast", "only the model"],
)
def test_qwen2_cuts_its_way(
    tmp_path: Path, saved: ByteLevelBPETokenizer, settings: dict[str, Any]
) -> None:
    tokenizer = load(tmp_path, saved, **settings)
    decomposed = unicodedata.normalize("NFD", "ünï")
    assert tokenizer.encode(decomposed) == tokenizer.encode("ünï")
    digits = [token for digit in "123" for token in tokenizer.encode(digit)]
    assert tokenizer.encode("123") == digits != saved.encode("123").ids
    assert tokenizer.eos_id == 3


def test_added_tokens_keep_their_ids(tmp_path: Path, saved: ByteLevelBPETokenizer) -> None:
    decoder = {
        "310": {"content": "<|im_start|>", "special": True},
        "300": {"content": "<tool>", "normalized": False},
    }
    listed = {"<|im_end|>": 305, "</s>": 2}
    settings = {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": decoder}
    tokenizer = load(
        tmp_path,
        saved,
        tokenizer_config=settings,
        added_tokens=listed,
        special_tokens_map={"eos_token": "<|im_end|>"},
    )
    assert tokenizer.vocab_size == 311
    assert tokenizer.eos_id == 305
    text = "<|im_start|>a<tool>b</s><|im_end|>"
    a, b = (saved.token_to_id(letter) for letter in "ab")
    assert tokenizer.encode(text) == [310, a, 300, b, 2, 305]
    assert tokenizer.decode([310, a, 300, b, 2, 305]) == text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"added_tokens": {"<new>": 5}}, r"'<new>' the id 5, which isn't its own in vocab\.json"),
        ({"added_tokens": {"</s>": 400}}, r"'</s>' the id 400, which isn't its own"),
        (
            {"special_tokens_map": {"eos_token": "<eod>"}},
            r"'<eod>', which vocab\.json doesn't have",
        ),
    ],
)
def test_settings_that_contradict_the_vocabulary(
    tmp_path: Path, saved: ByteLevelBPETokenizer, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(PreprocessError, match=message):
        load(tmp_path, saved, **settings)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vocab.json", '{"a": 0, "b": 1}', "isn't a vocabulary of byte-level BPE"),
        ("vocab.json", "rubbish", r"vocab\.json and merges\.txt can't be read"),
        ("merges.txt", "#version: 0.2\nq zzz\n", r"vocab\.json and merges\.txt can't be read"),
    ],
)
def test_damaged_files_are_named(
    tmp_path: Path, saved: ByteLevelBPETokenizer, name: str, content: str, message: str
) -> None:
    saved.save_model(str(tmp_path))
    merges = content if name == "merges.txt" else "#version: 0.2\n"
    (tmp_path / "merges.txt").write_text(merges)
    (tmp_path / name).write_text(content)
    with pytest.raises(PreprocessError, match=message):
        load_tokenizer(tmp_path)


def test_vocabulary_without_merges_is_none(tmp_path: Path, saved: ByteLevelBPETokenizer) -> None:
    saved.save_model(str(tmp_path))
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(PreprocessError, match=r"holds no tokenizer.*vocab\.json and merges\.txt"):
        load_tokenizer(tmp_path)


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
