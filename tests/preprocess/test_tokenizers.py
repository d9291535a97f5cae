from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from sentencepiece import SentencePieceTrainer
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from llm_pretrain.preprocess import (
    PreprocessError,
    find_tokenizer,
    load_tokenizer,
    train_bpe,
    words,
)
from llm_pretrain.preprocess import tokenizers as own

TEXTS = ["the cat sat on the mat", "the dog sat on the log", "ünïcode 日本語 too"] * 20


@pytest.fixture
def bpe(tmp_path: Path) -> Path:
    train_bpe(iter(TEXTS), 300, tmp_path / "bpe")
    return tmp_path / "bpe"


@pytest.fixture
def sentencepiece(tmp_path: Path) -> Path:
    folder = tmp_path / "sentencepiece"
    folder.mkdir()
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS),
        model_writer=model,
        vocab_size=60,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    return folder


def rows(tokenizer: own.Tokenizer, texts: list[str]) -> list[list[int]]:
    encoded = tokenizer.encode_batch(texts)
    return [ids.tolist() for ids in np.split(encoded.tokens, np.cumsum(encoded.sizes))[:-1]]


def test_trained_tokenizer_brings_any_text_back(bpe: Path) -> None:
    tokenizer = load_tokenizer(bpe)
    for text in ("the cat sat", " two  spaces\n", "\x00 🙂 日本語", ""):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode("the cat")) < len("the cat")
    assert tokenizer.vocab_size <= 300
    assert tokenizer.eos_id == 2


def test_training_is_deterministic(bpe: Path, tmp_path: Path) -> None:
    again = train_bpe(iter(TEXTS), 300, tmp_path / "again")
    assert again.read_bytes() == (bpe / "tokenizer.json").read_bytes()


def test_vocabulary_too_small_for_bytes_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PreprocessError, match="vocab_size is 258"):
        train_bpe(iter(TEXTS), 258, tmp_path)


def test_batch_is_one_by_one(bpe: Path, sentencepiece: Path) -> None:
    for folder in (bpe, sentencepiece):
        tokenizer = load_tokenizer(folder)
        assert rows(tokenizer, TEXTS[:3]) == [tokenizer.encode(text) for text in TEXTS[:3]]
        assert rows(tokenizer, []) == []


def test_sentencepiece(sentencepiece: Path) -> None:
    tokenizer = load_tokenizer(sentencepiece)
    ids = tokenizer.encode("the cat sat on the log")
    assert tokenizer.decode(ids) == "the cat sat on the log"
    assert max(ids) < tokenizer.vocab_size
    assert tokenizer.eos_id == 2


def test_saved_truncation_and_padding_lose_nothing(bpe: Path) -> None:
    saved = Tokenizer.from_file(str(bpe / "tokenizer.json"))
    saved.enable_truncation(3)
    saved.enable_padding(length=8)
    saved.save(str(bpe / "tokenizer.json"))
    tokenizer = load_tokenizer(bpe)
    text = TEXTS[0] * 3
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_added_tokens_count(bpe: Path) -> None:
    saved = Tokenizer.from_file(str(bpe / "tokenizer.json"))
    before = load_tokenizer(bpe).vocab_size
    saved.add_tokens([AddedToken("<extra>")])
    saved.save(str(bpe / "tokenizer.json"))
    tokenizer = load_tokenizer(bpe)
    assert tokenizer.vocab_size == before + 1
    assert tokenizer.encode("<extra>") == [before]


@pytest.mark.parametrize(
    ("files", "eos"),
    [
        ({"tokenizer_config.json": {"eos_token": {"content": "<s>"}}}, 1),
        ({"special_tokens_map.json": {"eos_token": "</s>"}}, 2),
        ({"config.json": {"eos_token_id": 7}}, 7),
        ({"generation_config.json": {"eos_token_id": [9, 7]}}, 9),
        ({"config.json": {"eos_token_id": 10**6}}, None),
        ({}, None),
    ],
)
def test_eos_is_found_where_hugging_face_keeps_it(bpe: Path, files: dict, eos: int | None) -> None:
    (bpe / "tokenizer_config.json").unlink()
    for name, content in files.items():
        (bpe / name).write_text(json.dumps(content))
    assert load_tokenizer(bpe).eos_id == eos


def test_eos_that_the_tokenizer_lacks_is_an_error(bpe: Path) -> None:
    (bpe / "tokenizer_config.json").write_text('{"eos_token": "<eod>"}')
    with pytest.raises(PreprocessError, match=r"'<eod>', which tokenizer\.json doesn't have"):
        load_tokenizer(bpe)


def test_find_tokenizer(bpe: Path, sentencepiece: Path, tmp_path: Path) -> None:
    assert find_tokenizer(bpe) == bpe / "tokenizer.json"
    assert find_tokenizer(sentencepiece) == sentencepiece / "tokenizer.model"
    (sentencepiece / "tokenizer.model").rename(sentencepiece / "spiece.model")
    assert find_tokenizer(sentencepiece) == sentencepiece / "spiece.model"
    (sentencepiece / "other.model").touch()
    assert find_tokenizer(sentencepiece) is None
    assert find_tokenizer(tmp_path) is None
    assert find_tokenizer(tmp_path / "missing") is None


def test_no_tokenizer_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(PreprocessError, match=r"holds no tokenizer: .* tokenizer\.json"):
        load_tokenizer(tmp_path)
    with pytest.raises(PreprocessError, match="is not a directory"):
        load_tokenizer(tmp_path / "missing")


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model"])
@pytest.mark.parametrize("content", [b"", b"{}", b"\x00\xff rubbish"])
def test_damaged_tokenizer_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PreprocessError, match=f"{name} can't be loaded"):
        load_tokenizer(tmp_path)


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
    return [*chosen, *(" a".join(map(chr, row)) for row in codes), *edges, *TEXTS]


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
    assert rows(tokenizer, texts) == [
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
    assert rows(load_tokenizer(tmp_path), ["the cat"]) == [expected]


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
    assert rows(tokenizer, texts) == [tokenizer.encode(text) for text in texts]
    assert (tokenizer._table is not None) == by_table


def test_full_table_begins_anew(bpe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "_MOST_WORDS", 3)
    tokenizer = load_tokenizer(bpe)
    for texts in (TEXTS[:3], ["the"], TEXTS[1:6], []):
        assert rows(tokenizer, texts) == [tokenizer.encode(text) for text in texts]
