from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from llm_pretrain.data.preprocess import PreprocessError
from llm_pretrain.data.preprocess.inputs import find_sources


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()


def names(folder: Path, *inputs: str) -> list[str]:
    return [source.name.removeprefix(f"{folder}/") for source in find_sources(inputs)[0]]


def test_folder_is_searched_in_order(tmp_path: Path) -> None:
    touch(tmp_path, "b.jsonl", "a.txt", "sub/c.jsonl.zst", "sub-2/d.parquet", "e.json.gz")
    touch(tmp_path, "notes.md", "x.csv.gz")
    expected = ["a.txt", "b.jsonl", "e.json.gz", "sub-2/d.parquet", "sub/c.jsonl.zst"]
    assert names(tmp_path, str(tmp_path)) == expected
    assert set(find_sources([str(tmp_path)])[1]) == {tmp_path / "notes.md", tmp_path / "x.csv.gz"}


def test_globs_and_several_inputs(tmp_path: Path) -> None:
    touch(tmp_path, "b1.txt", "b0.txt", "a.jsonl", "sub/b2.txt", "sub/c.jsonl")
    assert names(tmp_path, f"{tmp_path}/b*.txt") == ["b0.txt", "b1.txt"]
    assert names(tmp_path, f"{tmp_path}/**/b*.txt") == ["b0.txt", "b1.txt", "sub/b2.txt"]
    assert names(tmp_path, f"{tmp_path}/s*") == ["sub/b2.txt", "sub/c.jsonl"]
    given = (f"{tmp_path}/b1.txt", f"{tmp_path}/a.jsonl")
    assert names(tmp_path, *given) == ["b1.txt", "a.jsonl"]


def test_files_of_an_archive_are_inputs(tmp_path: Path) -> None:
    touch(tmp_path, "in/2.jsonl", "in/1.jsonl", "in/readme.md")
    (tmp_path / "in" / "1.jsonl").write_text("first")
    with tarfile.open(tmp_path / "all.tar", "w") as archive:
        for name in ("in/2.jsonl", "in/1.jsonl", "in/readme.md"):
            archive.add(tmp_path / name, name)
    sources, _ = find_sources([str(tmp_path / "all.tar")])
    assert [source.name for source in sources] == [
        f"{tmp_path}/all.tar/in/2.jsonl",
        f"{tmp_path}/all.tar/in/1.jsonl",
    ]
    with sources[1].open() as file:
        assert file.read() == b"first"


def test_nothing_to_read_is_an_error(tmp_path: Path) -> None:
    touch(tmp_path, "notes.md")
    (tmp_path / "bad.tar").write_bytes(b"not an archive" * 100)
    with pytest.raises(PreprocessError, match=r"holds no file of a known format: \.jsonl, \.json"):
        find_sources([f"{tmp_path}/*.md"])
    with pytest.raises(PreprocessError, match=r"notes\.md is not of a known format"):
        find_sources([str(tmp_path / "notes.md")])
    with pytest.raises(PreprocessError, match="no such file or folder"):
        find_sources([str(tmp_path / "missing")])
    with pytest.raises(PreprocessError, match=r"bad\.tar can't be read as an archive"):
        find_sources([str(tmp_path / "bad.tar")])
