from __future__ import annotations

from pathlib import Path

import pytest

from llm_pretrain.preprocess import PreprocessError
from llm_pretrain.preprocess.readers import (
    ReaderOptions,
    decode_record,
    find_files,
    read_records,
)


def texts(path: Path, **options: str) -> list[tuple[int, str]]:
    reader = ReaderOptions(**options)
    return [
        (record.line, decode_record(path, record.raw, reader))
        for record in read_records(path, reader)
    ]


def test_lines_of_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n\n{"text": "two\\nlines", "id": 3}\n{"text": "\\u00e9"}')
    assert texts(path) == [(1, "one"), (3, "two\nlines"), (4, "é")]


def test_json_key(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"content": "one"}\n')
    assert texts(path, json_key="content") == [(1, "one")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "property name"),
        (b"[1]", "expected a JSON object, found list"),
        (b'{"body": "x", "id": 1}', "no key 'text' .* 'body', 'id'"),
        (b'{"text": 7}', "not a string but int"),
        (b'{"text": null}', "not a string but NoneType"),
        (b'{"text": "\xff"}', "can't decode byte 0xff"),
        (b'{"text": "\\ud800"}', "surrogates not allowed"),
        (b'{"text": ' + b"[" * 100000, "nested too deeply|Expecting value"),
        (b'{"text": "x", "n": ' + b"9" * 5000 + b"}", "Exceeds the limit"),
    ],
)
def test_line_without_a_text(tmp_path: Path, line: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_record(tmp_path / "a.jsonl", line, ReaderOptions())


def test_documents_of_txt_are_separated_by_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\n\none\nmore\n \n\ntwo\r\nmore\r\n\r\nthree")
    assert texts(path) == [(3, "one\nmore\n"), (7, "two\nmore\n"), (10, "three")]


def test_documents_of_txt_by_separator(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one\n\nmore\n<end>\ntwo\n <end> \n<end>\n")
    assert texts(path, separator="<end>") == [(1, "one\n\nmore\n"), (5, "two\n")]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_byte_order_mark_is_not_text(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b'\xef\xbb\xbf{"text": "x"}')
    assert texts(path)[0][1] in ("x", '{"text": "x"}')


def test_folder_is_searched_in_order(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.txt", "sub/c.jsonl", "sub-2/d.txt", "notes.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    chosen, others = find_files(tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in chosen] == [
        "a.txt",
        "b.jsonl",
        "sub-2/d.txt",
        "sub/c.jsonl",
    ]
    assert others == [tmp_path / "notes.md"]


def test_nothing_to_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes.md").touch()
    with pytest.raises(PreprocessError, match=r"holds no file that ends in \.jsonl, \.txt"):
        find_files(tmp_path)
    with pytest.raises(PreprocessError, match=r"the ending \.md is not known"):
        find_files(tmp_path / "notes.md")
    with pytest.raises(PreprocessError, match="no such file or folder"):
        find_files(tmp_path / "missing")
