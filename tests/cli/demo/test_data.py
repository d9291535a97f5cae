from __future__ import annotations

import json
from pathlib import Path

from llm_pretrain.cli.demo.data import documents, write_corpus


def test_the_corpus_is_english_enough_and_the_same_each_time(tmp_path: Path) -> None:
    texts = documents()
    assert sum(len(text) for text in texts) > 1_500_000
    assert len(texts) == len(set(texts))
    assert any("The standard type hierarchy" in text for text in texts), "pydoc's topics"
    assert any("Join two or more pathname components" in text for text in texts), "docstrings"
    assert documents() == texts
    write_corpus(tmp_path / "corpus.jsonl", texts)
    lines = (tmp_path / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["text"] for line in lines] == texts
