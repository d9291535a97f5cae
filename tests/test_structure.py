"""The figures of the house that docs/architecture.md states, and that may not grow."""

from __future__ import annotations

import re

from tests.structure import PACKAGE, ROOT, files_of_a_step, gone_words, modules, names_at_the_top


def test_the_package_is_seen_at_a_glance() -> None:
    assert len(names_at_the_top()) <= 15
    assert max(modules().values()) <= 400


def test_a_word_that_is_gone_stays_gone() -> None:
    assert not gone_words(), "\n".join(gone_words())


def test_a_step_runs_through_as_many_files_as_the_docs_say() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    said = re.search(
        r"one training step of one process runs through: (\d+)", " ".join(text.split())
    )
    assert said is not None
    assert len(files_of_a_step()) <= int(said[1])


def test_the_picture_of_the_rooms_names_each() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for room in PACKAGE.iterdir():
        if room.suffix == ".py" or (room.is_dir() and room.name != "__pycache__"):
            assert room.stem.startswith("__") or re.search(rf"\b{room.stem}\b", text), room.name
