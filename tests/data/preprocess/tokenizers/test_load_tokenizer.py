from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from sentencepiece import SentencePieceTrainer
from tokenizers import (
    AddedToken,
    Tokenizer,
)

from llm_pretrain.data.preprocess import (
    PreprocessError,
    find_tokenizer,
    load_tokenizer,
    train_bpe,
)
from llm_pretrain.data.preprocess import tokenizers as own
from tests.data.preprocess.conftest import TEXTS


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


def ids_of(tokenizer: own.Tokenizer, texts: list[str]) -> list[list[int]]:
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
        assert ids_of(tokenizer, TEXTS[:3]) == [tokenizer.encode(text) for text in TEXTS[:3]]
        assert ids_of(tokenizer, []) == []


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


def test_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "paddlenlp", None)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    (tmp_path / "vocab.txt").write_text("[UNK]")
    with pytest.raises(PreprocessError, match=r"BertTokenizer, .* 'llm_pretrain\[paddlenlp\]'"):
        load_tokenizer(tmp_path)
