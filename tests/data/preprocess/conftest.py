from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llm_pretrain.cli import main
from llm_pretrain.data.find_data import open_data
from llm_pretrain.data.preprocess import load_tokenizer, train_bpe

TEXTS = ["the cat sat on the mat", "the dog sat on the log", "ünïcode 日本語 too"] * 20


@pytest.fixture
def bpe(tmp_path: Path) -> Path:
    train_bpe(iter(TEXTS), 300, tmp_path / "bpe")
    return tmp_path / "bpe"


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_bpe(iter(["alpha beta gamma delta epsilon 日本 \n"] * 10), 280, folder)
    return folder


@pytest.fixture
def preprocess(tokenizer: Path) -> Callable[..., int]:
    """Runs the command in this process on an input, to a prefix, with further arguments."""

    def run(source: Path, prefix: Path, *more: str) -> int:
        paths = ["--input_path", str(source), "--output_prefix", str(prefix)]
        return main(
            ["preprocess", "--model_name_or_path", str(tokenizer), "--workers", "1", *paths, *more]
        )

    return run


@pytest.fixture
def texts(tokenizer: Path) -> Callable[[Path], list[str]]:
    """The documents of a prefix, decoded."""
    loaded = load_tokenizer(tokenizer)

    def decode(prefix: Path) -> list[str]:
        data = open_data(prefix)
        return [loaded.decode(data.read(i, 0, None)[0].tolist()) for i in range(len(data.sizes))]

    return decode
