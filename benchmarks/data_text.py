"""The texts of data.py: English that is on the machine, and Chinese that is made up."""

from __future__ import annotations

import json
import random
import sys
import sysconfig
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

from llm_pretrain.data.preprocess import train_bpe

ENDINGS = (".md", ".rst", ".txt", ".py")
LARGEST_FILE = 1_000_000
VOCABULARY = 32000


def english(megabytes: int) -> list[str]:
    """Documentation and sources of Python packages, a file a document, in a fixed random order.

    First what is text under this environment and /usr/share/doc, then Python's own sources and
    those of the packages, whose comments and docstrings are English too, until there is enough.
    """
    folders = [
        Path("/usr/share/doc"),
        *(Path(sysconfig.get_path(n)) for n in ("stdlib", "purelib")),
    ]
    files = {path for folder in folders for path in folder.rglob("*") if path.suffix in ENDINGS}
    ordered = sorted(files, key=lambda path: (path.suffix == ".py", str(path)))
    texts: dict[str, None] = {}
    size = 0
    for path in ordered:
        if size >= megabytes * 1_000_000:
            break
        if path.is_file() and path.stat().st_size <= LARGEST_FILE:
            text = path.read_text(encoding="utf-8", errors="ignore").strip()
            if text.isascii() and len(text) > 200 and text not in texts:
                texts[text] = None
                size += len(text)
    shuffled = list(texts)
    random.Random(0).shuffle(shuffled)
    return shuffled


def chinese(megabytes: int) -> list[str]:
    """Words drawn by their frequency in jieba's dictionary, in sentences, 200 to 2000 words each.

    Real text repeats phrases, which this doesn't; it is a stand-in where no corpus is at hand.
    """
    import jieba

    dictionary = Path(jieba.__file__).with_name("dict.txt").read_text(encoding="utf-8")
    entries = [line.split() for line in dictionary.splitlines()]
    words = [entry[0] for entry in entries]
    heights = list(accumulate(int(entry[1]) for entry in entries))
    source = random.Random(0)
    texts, size = [], 0
    while size < megabytes * 1_000_000:
        parts = []
        for word in source.choices(words, cum_weights=heights, k=source.randint(200, 2000)):
            parts.append(word)
            if source.random() < 0.12:
                parts.append(source.choice("，，，。。！？"))
        texts.append("".join(parts))
        size += len(texts[-1].encode())
    return texts


def write_pieces(texts: list[str], folder: Path, pieces: int) -> list[Path]:
    """`pieces` files of JSON lines, of about the same size."""
    paths = [folder / f"piece{number}.jsonl" for number in range(pieces)]
    for number, path in enumerate(paths):
        lines = (
            json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts[number::pieces]
        )
        path.write_text("".join(lines), encoding="utf-8")
    return paths


def train_tokenizer(texts: list[str], folder: Path) -> None:
    """A byte-level BPE, as `tokenizer.json` and as GPT-2's vocab.json and merges.txt."""

    def some() -> Iterator[str]:
        yield from texts[::8]

    model = json.loads(train_bpe(some(), VOCABULARY, folder).read_text(encoding="utf-8"))["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
    merges = (merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"])
    lines = ["#version: 0.2", *merges]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    for kind in (english, chinese):
        made = kind(int(sys.argv[1]))
        print(kind.__name__, len(made), sum(len(text.encode()) for text in made))
