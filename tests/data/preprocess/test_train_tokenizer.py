"""The command that learns a tokenizer, and its sample of a text that is too much."""

from __future__ import annotations

import json
from hashlib import blake2b
from pathlib import Path

import pytest

from llm_pretrain.cli import main
from llm_pretrain.data.preprocess import load_tokenizer
from llm_pretrain.data.preprocess.train_tokenizer import Sample

TEXT = ["The cat's hat costs 12345 coins.", "日本語 and ünïcode\n\n\ttoo", "cat hat cat hat"]


def write_jsonl(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def learn(source: Path, folder: Path, *more: str) -> int:
    words = ["--input_path", str(source), "--output_dir", str(folder), "--vocab_size", "300"]
    return main(["tokenizer", *words, *more])


def test_learned_from_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", TEXT * 3)
    assert learn(source, tmp_path / "out", "--log_interval", "4") == 0
    out = capsys.readouterr().out
    assert "4 documents, 100.0% read\n8 documents" in out
    assert "all of the text" in out
    tokenizer = load_tokenizer(tmp_path / "out")
    assert tokenizer.eos_id == 2
    assert tokenizer.vocab_size <= 300
    for text in (*TEXT, "नमस्ते 🙂 \r\n"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    # In three documents " hat" stands next to itself most often: it became one token.
    assert len(tokenizer.encode(" hat")) == 1
    # LLaMA 3 cuts numbers after three digits, GPT-2 doesn't.
    assert tokenizer.encode("12345") == tokenizer.encode("123") + tokenizer.encode("45")


def test_what_preprocess_takes(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", TEXT)
    assert learn(source, tmp_path / "out") == 0
    words = ["--model_name_or_path", str(tmp_path / "out"), "--input_path", str(source)]
    prefix = ["--output_prefix", str(tmp_path / "data"), "--append_eos", "--workers", "1"]
    assert main(["preprocess", *words, *prefix]) == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a"}\nrubbish\n', "a.jsonl:2: "),
        ('{"content": "a"}\n', "there is no key 'text'"),
        ("\n", "holds no text"),
    ],
)
def test_what_is_wrong(
    tmp_path: Path, content: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    assert learn(tmp_path / "a.jsonl", tmp_path / "out") == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_is_wrong_is_told_before_the_text_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "a.jsonl"
    text.write_text("rubbish")
    assert learn(text, tmp_path / "out", "--vocab_size", "10") == 1
    assert "a byte-level vocabulary takes 259 at least" in capsys.readouterr().err
    assert learn(text, text) == 1
    assert "a.jsonl is a file" in capsys.readouterr().err


def test_a_tokenizer_is_not_overwritten(
    tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (tokenizer / "tokenizer.json").read_bytes()
    assert learn(write_jsonl(tmp_path / "a.jsonl", TEXT), tokenizer) == 1
    assert "holds a tokenizer already" in capsys.readouterr().err
    assert (tokenizer / "tokenizer.json").read_bytes() == before


def sampled(texts: list[str], limit: int) -> list[str]:
    sample = Sample(limit)
    for text in texts:
        sample.add(text, blake2b(text.encode(), digest_size=16).digest())
        assert sample.size <= limit
    return list(sample.texts())


def test_a_sample_is_bounded_and_of_no_order() -> None:
    texts = [f"document {number:04}" for number in range(1000)]
    found = sampled(texts, 13 * 100)
    assert len(found) == 100
    assert found == sampled(texts[::-1], 13 * 100)
    numbers = [texts.index(text) for text in found]
    # Of 1000 numbers the mean of 100 is 500 with a standard deviation of 27.
    assert 390 < sum(numbers) / 100 < 610


def test_equal_documents_count_once() -> None:
    assert sampled(["a", "b", "a", "a"], 100) in (["a", "b"], ["b", "a"])
