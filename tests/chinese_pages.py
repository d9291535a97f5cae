"""The Chinese of the pages that programs write; `python -m tests.chinese_pages` writes it anew.

`chinese_pages.json` has every paragraph, item and heading of them, and the words of their tables,
with `{}` for what is filled in.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
_TEXTS: dict[str, dict[str, str]] = json.loads(
    Path(__file__).with_suffix(".json").read_text(encoding="utf-8")
)
PAGES = [ROOT / "docs" / name for name in _TEXTS]


def twin(page: Path) -> Path:
    return page.with_name(f"{page.stem}_zh.md")


def write_twin(page: Path) -> None:
    twin(page).write_text(in_chinese(page), encoding="utf-8")


def in_chinese(page: Path) -> str:
    """The page in Chinese. Raises KeyError where the Chinese of a text is missing."""
    texts = _TEXTS[page.name]
    language = f"[中文]({twin(page).name})"
    blocks = []
    for block in page.read_text(encoding="utf-8").replace(language, "").split("\n\n"):
        if block.startswith("|"):
            blocks.append("\n".join(_row(texts, line) for line in block.splitlines()))
        else:
            blocks.append("\n".join(_chinese(texts, text) for text in _joined(block)))
    title, *rest = (block for block in blocks if block)
    return "\n\n".join([title, f"[English]({page.name})", *rest]) + "\n"


def _joined(block: str) -> list[str]:
    """The items of a list, or the one text that a block is, each in a line."""
    items = re.sub(r"\n(?!- )\s*", " ", block.strip()).split("\n")
    return [item for item in items if item]


def _row(texts: dict[str, str], line: str) -> str:
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    if not line.strip("|-"):
        return line
    return f"| {' | '.join(_chinese(texts, cell, must=False) for cell in cells)} |"


def _chinese(texts: dict[str, str], text: str, *, must: bool = True) -> str:
    for english, chinese in texts.items():
        pattern = "(.+)".join(map(re.escape, english.split("{}")))
        match = re.fullmatch(pattern, text)
        if match is not None:
            return chinese.format(*match.groups())
    if must:
        raise KeyError(f"tests/chinese_pages.json has no Chinese of: {text}")
    return text


if __name__ == "__main__":
    for each in PAGES:
        write_twin(each)
