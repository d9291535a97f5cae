"""`llm-pretrain evaluate`: figures that arithmetic gives, and what is wrong told in a sentence."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm_pretrain.checkpoint.write_weights import write_weights
from llm_pretrain.cli import main
from llm_pretrain.data.preprocess import load_tokenizer, train_bpe
from tests.models.small import small_config

TEXTS = ["alpha beta gamma", "delta ünïcode 日本", "beta " * 30]
VOCABULARY = 320


def write_model(folder: Path, **tensors: np.ndarray) -> Path:
    """A model that finds every token equally probable, but for `tensors`, and a tokenizer."""
    train_bpe(iter([*TEXTS, " yes no"] * 10), 300, folder)
    config = small_config(vocab_size=VOCABULARY, max_position_embeddings=32)
    shapes = config.tensor_shapes()
    zeros = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    write_weights((zeros | tensors).items(), config, folder, dtype="float32")
    return folder


@pytest.fixture(scope="module")
def blind(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("blind"))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return path


def figures(tokens: int) -> str:
    size = sum(len(text.strip().encode()) for text in TEXTS)
    bits = tokens * math.log2(VOCABULARY) / size
    return (
        f"3 documents, {tokens:,} tokens, {size:,} bytes\nloss {math.log(VOCABULARY):.4f}  "
        f"perplexity {VOCABULARY:.4f}  bits per byte {bits:.4f}\n"
    )


def test_a_blind_model_on_text_and_on_its_tokens(
    blind: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = load_tokenizer(blind)
    tokens = sum(len(tokenizer.encode(text.strip())) for text in TEXTS)
    assert main(["evaluate", str(blind), "--input", str(text), "--batch_size", "2"]) == 0
    assert capsys.readouterr().out == figures(tokens)
    prefix = str(text.with_name("data"))
    words = ["--model_name_or_path", str(blind), "--input_path", str(text), "--workers", "1"]
    assert main(["preprocess", *words, "--output_prefix", prefix, "--append_eos"]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(blind), "--input", prefix]) == 0
    assert capsys.readouterr().out == figures(tokens + len(TEXTS))


@pytest.mark.parametrize("name", ["part", "part/data.bin", "part/data.idx"])
def test_token_data_is_named_by_its_prefix(
    blind: Path, text: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = text.parent
    words = ["--model_name_or_path", str(blind), "--input_path", str(text), "--workers", "1"]
    assert main(["preprocess", *words, "--output_prefix", str(folder / "part" / "data")]) == 0
    assert main(["evaluate", str(blind), "--input", str(folder / name)]) == 1
    assert f"is named by its prefix: {folder}/part/data\n" in capsys.readouterr().err


def test_choices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_model(tmp_path / "model")
    (yes,) = load_tokenizer(folder).encode(" yes")
    # Embeddings of one at the first place give " yes" a larger logit wherever it stands.
    table, head = np.zeros((VOCABULARY, 16), np.float32), np.zeros((16, VOCABULARY), np.float32)
    table[:, 0], head[0, yes] = 1, 1
    ones = np.ones(16, np.float32)
    folder = write_model(
        tmp_path / "model", **{"embedding.weight": table, "head.weight": head, "norm.weight": ones}
    )
    lines: list[dict[str, Any]] = [
        {"prompt": "alpha?", "choices": [" no", " yes"], "answer": 1},
        {"prompt": "beta? ", "choices": ["yes", "no"], "answer": 0},
        {"prompt": "gamma?", "choices": [" yes", " no"], "answer": 1},
        {"prompt": "", "choices": [" no", " no", " no", " yes"], "answer": 3},
    ]
    questions = tmp_path / "questions.jsonl"
    questions.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["evaluate", str(folder), "--choices", str(questions)]) == 0
    out = capsys.readouterr().out
    assert out == (
        "4 questions: accuracy 0.7500  per byte of the choice 0.7500  by chance 0.4375\n"
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("rubbish", "q.jsonl:1: "),
        ('{"choices": ["a", "b"], "answer": 0}', 'expected is an object with the text "prompt"'),
        ('{"prompt": "", "choices": ["a"], "answer": 0}', "a list of two texts or more"),
        ('{"prompt": "", "choices": ["a", ""], "answer": 0}', "none empty"),
        ('{"prompt": "", "choices": ["a", "b"], "answer": 2}', "the number of a choice, 0 to 1"),
        ("", "holds no question"),
        (b"\xff", "q.jsonl:1: "),
        ('{"prompt": "\\ud800", "choices": ["a", "b"], "answer": 0}', "surrogates not allowed"),
        ("[" * 99999, "q.jsonl:1: "),
    ],
)
def test_questions_that_are_none(
    blind: Path, tmp_path: Path, line: str | bytes, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "q.jsonl").write_bytes(line.encode() if isinstance(line, str) else line)
    assert main(["evaluate", str(blind), "--choices", str(tmp_path / "q.jsonl")]) == 1
    assert message in capsys.readouterr().err
