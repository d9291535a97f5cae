"""`vocab.json` and `merges.txt` without a `tokenizer.json`."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from tokenizers import ByteLevelBPETokenizer

from llm_pretrain.preprocess import PreprocessError, Tokenizer, find_tokenizer, load_tokenizer

END = "<|endoftext|>"
TEXTS = ["the cat sat on the mat", "they'll count 123 cats", "ünïcode 日本語  \n two"]
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
