"""What belongs to a tokenizer, and who reads it."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_pretrain.preprocess.tokenizer_files import class_for_paddlenlp, tokenizer_files

SETTINGS = ["added_tokens.json", "special_tokens_map.json", "tokenizer_config.json"]


@pytest.mark.parametrize(
    "names",
    [
        ["tokenizer.json"],
        ["tokenizer.model"],
        ["merges.txt", "vocab.json"],
        ["qwen.tiktoken"],
        ["ernie_vocab.txt"],
        ["sentencepiece.bpe.model"],
    ],
)
def test_all_files_of_a_tokenizer_and_no_others(tmp_path: Path, names: list[str]) -> None:
    for name in (*names, *SETTINGS, "config.json", "model.safetensors", "README.md"):
        (tmp_path / name).touch()
    (tmp_path / "vocabularies").mkdir()
    found = [path.name for path in tokenizer_files(tmp_path)]
    assert found == sorted([*names, *SETTINGS])


def test_no_files_where_there_is_no_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    assert tokenizer_files(tmp_path) == tokenizer_files(tmp_path / "missing") == []


@pytest.mark.parametrize(
    ("vocabulary", "class_name", "expected"),
    [
        ("vocab.txt", "BertTokenizer", "BertTokenizer"),
        ("vocab.txt", None, None),
        ("tokenizer.model", "LlamaTokenizer", None),
        ("sentencepiece.model", "GPTChineseTokenizer", "GPTChineseTokenizer"),
        ("tokenizer.json", "BertTokenizer", None),
        # The class alone, without its vocabulary, is a download that isn't complete.
        ("README.md", "LlamaTokenizer", None),
        ("vocab.json", "Qwen2Tokenizer", None),
    ],
)
def test_what_only_paddlenlp_reads(
    tmp_path: Path, vocabulary: str, class_name: str | None, expected: str | None
) -> None:
    (tmp_path / vocabulary).touch()
    if class_name:
        settings = f'{{"tokenizer_class": "{class_name}"}}'
        (tmp_path / "tokenizer_config.json").write_text(settings)
    assert class_for_paddlenlp(tmp_path) == expected
