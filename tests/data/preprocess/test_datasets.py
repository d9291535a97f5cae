"""The commands of docs/datasets/ on small samples in each corpus's own format."""

from __future__ import annotations

import io
import json
import re
import shlex
import tarfile
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from llm_pretrain.cli import main

FOLDER = Path(__file__).parents[3] / "docs" / "datasets"
Texts = Callable[[Path], list[str]]


def commands(page: str) -> list[str]:
    text = (FOLDER / f"{page}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^ *```(\w*)\n(.*?)^ *```$", text, flags=re.MULTILINE | re.DOTALL)
    plain = "".join(textwrap.dedent(block) for language, block in blocks if not language)
    lines = plain.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("llm-pretrain ")]


@pytest.fixture
def follow(
    tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], None]:
    """Runs a page's commands, one worker each, in the folder of the sample."""
    monkeypatch.chdir(tmp_path)

    def run(page: str) -> None:
        for command in commands(page):
            words = shlex.split(command.replace("DIRECTORY_WITH_THE_TOKENIZER", str(tokenizer)))[1:]
            more = ["--workers", "1"] if words[0] == "preprocess" else []
            assert main([*words, *more]) == 0, command

    return run


def write(name: str, content: str | bytes) -> None:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def test_clue_corpus_2020(follow: Callable[[str], None], texts: Texts) -> None:
    first, second = "今天天气很好。\n我们去公园玩。", "经济学是一门社会科学。\n它研究选择。"
    write("CLUECorpus2020/part_0.txt", f"{first}\n\n短。\n\n{second}\n")
    write("CLUECorpus2020/part_1.txt", f"{second}\n\n".encode() + b"\xff\xfe\n\n" + first.encode())
    follow("CLUECorpus2020")
    eos = "</s>"
    assert texts(Path("data/clue_corpus_2020")) == [first + eos, second + eos]


def test_clue_corpus_small(follow: Callable[[str], None], texts: Texts) -> None:
    expected = []
    for part in ("comment2019zh", "news2016zh", "webText2019zh", "wiki2019zh"):
        for number in range(2):
            documents = [f"{part} 第{number}个文件的第{n}篇文章。\n第二句。" for n in range(3)]
            name = f"clue_corpus_small_14g/{part}_corpus/{part}_{number}.txt"
            write(name, "\n\n".join(documents) + "\n\n")
            expected.extend(f"{document}</s>" for document in documents)
    follow("CLUECorpusSmall")
    assert texts(Path("data/clue_corpus_small_14g")) == expected
    assert texts(Path("data/news2016zh")) == [text for text in expected if "news" in text]
    assert texts(Path("data/wiki2019zh")) == [text for text in expected if "wiki" in text]


def test_openwebtext2(follow: Callable[[str], None], texts: Texts) -> None:
    zstandard = pytest.importorskip("zstandard")
    everything = [f"Document {n}.\n\nWith two paragraphs." for n in range(3000)]
    with tarfile.open("openwebtext2.jsonl.zst.tar", "w") as archive:
        for month in range(3):
            lines = [
                json.dumps({"text": text, "meta": {"title": "t", "lang": "en", "urls": ["u"]}})
                for text in everything[month::3]
            ]
            compressed = zstandard.ZstdCompressor().compress("\n".join(lines).encode())
            member = tarfile.TarInfo(f"2005-{month + 1:02}.jsonl.zst")
            member.size = len(compressed)
            archive.addfile(member, io.BytesIO(compressed))
    follow("OpenWebText2")
    kept, held_out = texts(Path("data/openwebtext2")), texts(Path("data/held_out/openwebtext2"))
    assert 0 < len(held_out) < 15
    assert sorted(kept + held_out) == sorted(f"{text}</s>" for text in everything)


def test_wudao(follow: Callable[[str], None], texts: Texts) -> None:
    pytest.importorskip("jieba")
    for part in range(2):
        elements = [
            {
                "id": n,
                "uniqueKey": "5a4b",
                "titleUkey": "5a4b",
                "dataType": "百科",
                "title": "标题[1]",
                "content": f"我来到北京清华大学\\第{part}{n}次，他说“好”。",
            }
            for n in range(2)
        ]
        spelled = json.dumps(elements, ensure_ascii=False, indent=4 if part else None)
        write(f"WuDaoCorpus2.0_base_200G/part-202101281a{part}.json", spelled)
    follow("WuDaoCorpora2.0")
    assert texts(Path("data/wudao")) == [
        f"我来到北京清华大学\\第{part}{n}次，他说“好”。</s>" for part in range(2) for n in range(2)
    ]
    words = texts(Path("data/wudao_words"))
    assert words[0].startswith("我 来到 北京 清华大学 \\ ")


def test_my_own_text(follow: Callable[[str], None], texts: Texts) -> None:
    block = re.search(r"```json\n(.*?)```", (FOLDER / "my_own_text.md").read_text(), re.DOTALL)
    assert block is not None
    write("my_texts/some.jsonl", textwrap.dedent("   " + block[1].lstrip()))
    write("my_texts/more/plain.txt", "\n\n".join(f"text {n}" for n in range(200)) + "\n\ntext 7\n")
    follow("my_own_text")
    own = [*(f"text {n}</s>" for n in range(200)), "The first document.\nIts second line.</s>"]
    assert texts(Path("data/mine/text")) == [*own, "The second document.</s>"]
    assert texts(Path("data/trial")) == own[:100]


def test_every_page_has_a_test() -> None:
    pages = {path.stem for path in FOLDER.glob("*.md") if not path.stem.endswith("_zh")}
    tested = set(re.findall(r'follow\("(.*?)"\)', Path(__file__).read_text(encoding="utf-8")))
    assert pages == tested


@pytest.mark.parametrize("page", sorted(FOLDER.glob("*.md")), ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        assert target.startswith("http") or (page.parent / target).exists(), target
