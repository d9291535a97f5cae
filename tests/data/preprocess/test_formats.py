from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_pretrain.data.preprocess import inputs
from llm_pretrain.data.preprocess.inputs import FORMATS, FormatOptions, decode_record, find_sources
from llm_pretrain.data.preprocess.streams import array_elements


def texts(path: Path, **options: str) -> list[tuple[int, str]]:
    """Number and text of each record."""
    chosen = FormatOptions(**options)
    (source,), _ = find_sources([str(path)])
    kind = FORMATS[source.format]
    with source.open() as file:
        return [
            (record.number, decode_record(record.raw, kind, chosen))
            for record in kind.cut(file, source.compression, chosen)
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
def test_line_without_a_text(line: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_record(line, FORMATS[".jsonl"], FormatOptions())


def test_documents_of_txt_are_separated_by_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\n\none\nmore\n \n\ntwo\r\nmore\r\n\r\nthree")
    assert texts(path) == [(3, "one\nmore"), (7, "two\nmore\r"), (10, "three")]


def test_documents_of_txt_by_separator(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one\n\nmore\n<end>\ntwo\n <end> \n<end>\n")
    assert texts(path, separator="<end>") == [(1, "one\n\nmore"), (5, "two")]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_byte_order_mark_is_not_text(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b'\xef\xbb\xbf{"text": "x"}')
    assert texts(path)[0][1] in ("x", '{"text": "x"}')


def zstandard(data: bytes) -> bytes:
    module = pytest.importorskip("zstandard")
    return module.ZstdCompressor(write_checksum=True).compress(data)


@pytest.mark.parametrize(("ending", "pack"), [(".gz", gzip.compress), (".zst", zstandard)])
def test_compressed_files(tmp_path: Path, ending: str, pack: Callable[[bytes], bytes]) -> None:
    lines = [json.dumps({"text": f"document {number}"}) + "\n" for number in range(1000)]
    path = tmp_path / f"a.jsonl{ending}"
    # Two parts one after another are one file, and the first may end within a line.
    whole = "".join(lines).encode()
    padding = b"\0" * 300_000
    path.write_bytes(pack(whole[:1234]) + pack(whole[1234:]) + padding)
    assert texts(path) == [(n + 1, f"document {n}") for n in range(1000)]


@pytest.mark.parametrize(("ending", "pack"), [(".gz", gzip.compress), (".zst", zstandard)])
@pytest.mark.parametrize("fault", ["short", "damaged"])
def test_damaged_compression_is_no_silent_end(
    tmp_path: Path, ending: str, pack: Callable[[bytes], bytes], fault: str
) -> None:
    path = tmp_path / f"a.txt{ending}"
    compressed = pack("".join(f"line {number**3}\n" for number in range(10000)).encode())
    half = len(compressed) // 2
    flipped = compressed[:half] + bytes([compressed[half] ^ 255]) + compressed[half + 1 :]
    path.write_bytes(compressed[:-9] if fault == "short" else flipped)
    with pytest.raises((OSError, EOFError)):
        texts(path)


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    words = ["one", "é", None, "four"]
    for column in (
        pyarrow.array(words),
        pyarrow.array(words, pyarrow.large_string()),
        pyarrow.array(words).dictionary_encode(),
    ):
        parquet.write_table(pyarrow.table({"content": column, "id": [1, 2, 3, 4]}), path)
        with path.open("rb") as file:
            records = list(FORMATS[".parquet"].cut(file, "", FormatOptions("content")))
        assert [record.number for record in records] == [1, 2, 3, 4]
        assert [record.raw and record.raw.decode() for record in records] == words
    with pytest.raises(ValueError, match=r"no column 'text' \(--json_key\); its columns: \['cont"):
        texts(path)
    with pytest.raises(ValueError, match="not of strings but of int64"):
        texts(path, json_key="id")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="arquet"):
        texts(path)


ARRAY = [{"content": 'a "quoted" \\ {text} [1, 2]\n', "n": [1, {"m": []}]}, {"content": "二"}, 3]


def test_json_is_an_array_or_lines(tmp_path: Path) -> None:
    path = tmp_path / "part-1.json"
    for spelled in (json.dumps(ARRAY[:2], indent=4), json.dumps(ARRAY[:2], ensure_ascii=False)):
        path.write_text(f"\n {spelled}\n")
        assert texts(path, json_key="content") == [(1, ARRAY[0]["content"]), (2, "二")]
    path.write_text("".join(json.dumps(element) + "\n" for element in ARRAY[:2]))
    assert texts(path, json_key="content") == [(1, ARRAY[0]["content"]), (2, "二")]
    path.write_text("[]")
    assert texts(path) == []
    path.write_text(json.dumps(ARRAY[:2])[:-1])
    with pytest.raises(EOFError, match="no end"):
        texts(path, json_key="content")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.lists(json_values), st.integers(1, 7), st.booleans())
def test_array_is_cut_as_json_reads_it(values: list, block: int, compact: bool) -> None:
    spelled = json.dumps(values, indent=None if compact else 1, ensure_ascii=compact).encode()
    blocks = (spelled[at : at + block] for at in range(0, len(spelled), block))
    assert [json.loads(element) for element in array_elements(blocks, 1 << 20)] == values


def test_what_is_too_long_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "MAX_RECORD_BYTES", 100)
    for name, content in (
        ("a.jsonl", json.dumps({"text": "x" * 100})),
        ("a.txt", "line\n" * 30),
    ):
        path = tmp_path / name
        path.write_text(content)
        with pytest.raises(ValueError, match="longer than 0 MiB; are the ending"):
            texts(path)
    elements = array_elements(iter([b'["', b"x" * 200, b'"]']), 100)
    with pytest.raises(ValueError, match="an element is longer"):
        list(elements)
