"""Every page is there in Chinese too, and both say the same: a section, a command, a table, a
figure, a link or a key that is in one of them is in the other."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests import chinese_pages
from tests.chinese_pages import twin

ROOT = Path(__file__).parent.parent
CHINESE = re.compile(r"[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]")
FIGURES = re.compile(r"[-+]?\d[\d.,]*\d|\d")
IN_WORDS = re.compile(r"\d[\d.,]*\s(million|billion)")
"""Numbers that Chinese counts otherwise: 2 million are 200 万."""
LANGUAGES = re.compile(r"\[(中文|English)\]\([\w.]+\.md\)")
TWINS = sorted([*ROOT.glob("*_zh.md"), *ROOT.glob("docs/**/*_zh.md")])
PAGES = sorted({ROOT / "README.md", *ROOT.glob("docs/**/*.md")} - {*TWINS})


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@dataclass
class Section:
    """What stands under one heading; the first is what stands before all of them."""

    level: int
    title: str
    lines: list[str] = field(default_factory=list)
    """Those outside of blocks."""
    blocks: list[list[str]] = field(default_factory=list)
    """The lines of each fenced block, from the fence with its language on."""

    @property
    def rows(self) -> list[list[str]]:
        """The cells of each row of its tables."""
        return [re.split(r"(?<!\\)\|", line)[1:-1] for line in self.lines if line.startswith("|")]

    @property
    def names(self) -> set[str]:
        """What stands between backticks: keys, options, files, values."""
        found = re.findall(r"`([^`]+)`", "\n".join(self.lines))
        return {" ".join(each.split()) for each in found}

    @property
    def figures(self) -> set[str]:
        return set(FIGURES.findall(IN_WORDS.sub("", "\n".join(self.lines))))

    @property
    def links(self) -> list[str]:
        return re.findall(r"\]\(([^)\s]+)\)", "\n".join(self.lines))


def sections(page: Path) -> list[Section]:
    found = [Section(0, "")]
    inside = False
    for line in page.read_text(encoding="utf-8").splitlines():
        heading = re.match(r"(#+) (.*)", line)
        if line.lstrip().startswith("```"):
            inside = not inside
            if inside:
                found[-1].blocks.append([line])
        elif inside:
            found[-1].blocks[-1].append(line)
        elif heading:
            found.append(Section(len(heading[1]), heading[2]))
        elif not LANGUAGES.fullmatch(line):
            found[-1].lines.append(line)
    return found


def anchor(title: str) -> str:
    """The name that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def is_same_line(english: str, chinese: str) -> bool:
    """Whether a line of a block is the same, up to where its words in Chinese begin."""
    words = CHINESE.search(chinese)
    if words is None:
        return chinese == english
    return english.startswith(chinese[: words.start()].rstrip(" #"))


def destination(page: Path, link: str) -> tuple[str, int | None]:
    """The page to which a link leads, by its name in English, and which of its sections."""
    if link.startswith("http"):
        return link, None
    file, _, part = link.partition("#")
    target = (page.parent / file).resolve() if file else page
    if part:
        anchors = [anchor(section.title) for section in sections(target)]
        assert part in anchors, f"{name(page)}: {link} leads to no heading"
        return str(target).replace("_zh.md", ".md"), anchors.index(part)
    return str(target).replace("_zh.md", ".md"), None


def compare(page: Path, english: Section, chinese: Section) -> None:
    where = f"{english.title} / {chinese.title}"
    assert english.level == chinese.level, where
    assert english.names == chinese.names, where
    # The other way round it needn't be: what English spells out Chinese may write in digits.
    assert english.figures <= chinese.figures, where
    assert [len(block) for block in english.blocks] == [len(block) for block in chinese.blocks]
    for block, other_block in zip(english.blocks, chinese.blocks, strict=True):
        for line, other_line in zip(block, other_block, strict=True):
            assert is_same_line(line, other_line), f"{where}: {other_line} instead of {line}"
    assert [len(row) for row in english.rows] == [len(row) for row in chinese.rows], where
    for row, other_row in zip(english.rows, chinese.rows, strict=True):
        for cell, other_cell in zip(row, other_row, strict=True):
            told, told_there = (
                Counter([*FIGURES.findall(each), *re.findall("`.*?`", each)])
                for each in (cell, other_cell)
            )
            assert not told - told_there, f"{where}: {other_cell} instead of {cell}"
    assert Counter(destination(page, link) for link in english.links) == Counter(
        destination(twin(page), link) for link in chinese.links
    ), where


def test_every_page_has_a_twin() -> None:
    assert sorted(map(twin, PAGES)) == TWINS


@pytest.mark.parametrize("page", chinese_pages.PAGES, ids=name)
def test_the_twin_of_a_page_that_is_generated_is_generated(page: Path) -> None:
    expected = chinese_pages.in_chinese(page)
    assert twin(page).read_text(encoding="utf-8") == expected, "python -m tests.chinese_pages"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_both_languages_name_each_other(page: Path) -> None:
    assert page.read_text(encoding="utf-8").splitlines()[2] == f"[中文]({twin(page).name})"
    assert twin(page).read_text(encoding="utf-8").splitlines()[2] == f"[English]({page.name})"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_both_languages_say_the_same(page: Path) -> None:
    for english, chinese in zip(sections(page), sections(twin(page)), strict=True):
        compare(page, english, chinese)


@pytest.mark.parametrize("page", TWINS, ids=name)
def test_a_page_in_chinese_leads_to_pages_in_chinese(page: Path) -> None:
    for section in sections(page):
        for link in section.links:
            if not link.startswith("http"):
                target = (page.parent / link.partition("#")[0]).resolve()
                assert target not in PAGES, f"{link} leads to the page in English"
