"""What belongs to a tokenizer, and who reads it."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_pretrain.data.preprocess.tokenizers import (
    class_for_paddlenlp,
    copy_along,
    files_that_go_along,
    tokenizer_files,
)

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


ALONG_WITH_A_TOKENIZER = [
    *SETTINGS,
    "chat_template.jinja",
    "chat_template.json",
    "merges.txt",
    "qwen.tiktoken",
    "special.model",
    "tokenization_qwen.py",
    "tokenizer.json",
    "vocab.json",
]
FOR_GENERATION = ["generation_config.json", "qwen_generation_utils.py"]


def test_what_goes_along_is_each_from_its_own_directory(tmp_path: Path) -> None:
    for folder in ("model", "tokenizer"):
        for name in (*ALONG_WITH_A_TOKENIZER, *FOR_GENERATION, "config.json", "model.safetensors"):
            path = tmp_path / folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(folder)
        for name in ("additional_chat_templates", "custom_generate", "tokenizer_backup"):
            (tmp_path / folder / name).mkdir()
            (tmp_path / folder / name / "one").write_text(folder)
    saved = tmp_path / "saved"
    saved.mkdir()
    for _ in range(2):  # a second save writes over the first
        copy_along(files_that_go_along(tmp_path / "model", tmp_path / "tokenizer"), saved)
    found = {
        str(path.relative_to(saved)): path.read_text()
        for path in saved.rglob("*")
        if path.is_file()
    }
    assert found == {
        **dict.fromkeys([*ALONG_WITH_A_TOKENIZER, "additional_chat_templates/one"], "tokenizer"),
        **dict.fromkeys([*FOR_GENERATION, "custom_generate/one"], "model"),
    }


def test_files_that_are_there_already_stay(tmp_path: Path) -> None:
    for name in ("tokenizer.json", "generation_config.json"):
        (tmp_path / name).write_text(name)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/tokenizer.json").symlink_to(tmp_path / "tokenizer.json")
    for folder in (tmp_path, tmp_path / "linked"):
        copy_along(files_that_go_along(tmp_path, tmp_path), folder)
        assert (folder / "tokenizer.json").read_text() == "tokenizer.json"


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
