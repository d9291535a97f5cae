from __future__ import annotations

import gzip
import json
import re
import resource
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from llm_pretrain.config import DataArguments
from llm_pretrain.data import IndexedWriter, describe_data, open_sources
from llm_pretrain.data.find_data import open_data
from llm_pretrain.data.preprocess import PreprocessError, encode, load_tokenizer, main
from tests.data.npy_files import write_npy

WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "日本", "\n"]


def write_jsonl(path: Path, texts: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def random_texts(count: int, seed: int = 0) -> list[str]:
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, random.integers(0, 60))) for _ in range(count)]


def run(tokenizer: Path, source: Path, prefix: Path, *more: str) -> int:
    return main(
        [
            "--model_name_or_path",
            str(tokenizer),
            "--input_path",
            str(source),
            "--output_prefix",
            str(prefix),
            *more,
        ]
    )


def documents(prefix: Path) -> list[list[int]]:
    data = open_data(prefix)
    return [data.read(i, 0, None)[0].tolist() for i in range(len(data.sizes))]


def test_documents_are_the_texts(tokenizer: Path, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", ["alpha beta", "  gamma\n", "", " \n", "日本"])
    assert run(tokenizer, source, tmp_path / "out" / "x") == 0
    loaded = load_tokenizer(tokenizer)
    decoded = [loaded.decode(ids) for ids in documents(tmp_path / "out" / "x")]
    assert decoded == ["alpha beta", "gamma", "日本"]
    data = DataArguments(input_dir=str(tmp_path / "out"))
    assert "3 documents" in "\n".join(describe_data(open_sources(data)))


@pytest.mark.parametrize(("files", "is_said"), [(1, False), (2, True), (30, False)])
def test_validation_on_the_last_of_several_inputs_is_said(
    tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], files: int, is_said: bool
) -> None:
    """The default split validates on the last twentieth of the documents."""
    for number in range(files):
        write_jsonl(tmp_path / f"text/{number:02}.jsonl", ["alpha beta"] * 3)
    assert run(tokenizer, tmp_path / "text", tmp_path / "x", "--workers", "1") == 0
    last = f"validates on {tmp_path}/text/{files - 1:02}.jsonl alone"
    assert (last in capsys.readouterr().out) == is_said


def test_eos_ends_every_document(tokenizer: Path, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", ["alpha", "beta gamma"])
    assert run(tokenizer, source, tmp_path / "x", "--append_eos") == 0
    assert [ids.count(2) for ids in documents(tmp_path / "x")] == [1, 1]
    assert all(ids[-1] == 2 for ids in documents(tmp_path / "x"))


def test_output_is_the_same_with_any_number_of_workers(
    tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode, "_BLOCK_RECORDS", 7)
    write_jsonl(tmp_path / "text" / "a.jsonl", random_texts(100))
    (tmp_path / "text" / "b.txt").write_text("\n\n".join(random_texts(50, seed=1)))
    compressed = gzip.compress((tmp_path / "text" / "a.jsonl").read_bytes())
    (tmp_path / "text" / "c.jsonl.gz").write_bytes(compressed)
    choice = ("--remove_duplicates", "--held_out_share", "0.3", "--sample_share", "0.9")
    for workers in ("1", "8"):
        more = ("--workers", workers, "--append_eos", *choice)
        assert run(tokenizer, tmp_path / "text", tmp_path / workers / "x", *more) == 0
    for name in ("x.bin", "x.idx", "held_out/x.bin", "held_out/x.idx"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "8" / name).read_bytes()


def test_few_blocks_are_in_memory() -> None:
    taken = 0

    def blocks():
        nonlocal taken
        for number in range(1000):
            taken += 1
            yield number

    class Pool:
        """Stands in for the process pool: runs a task when it is handed in."""

        def __init__(self, *_: object) -> None: ...

        def submit(self, _: object, block: int):
            future = encode.Future()
            future.set_result(block)
            return future

        def shutdown(self, **_: object) -> None: ...

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encode, "ProcessPoolExecutor", Pool)
        options = encode.EncodeOptions(Path(), np.dtype(np.uint16))
        for done, _ in enumerate(encode.encode_blocks(blocks(), options, 4)):
            assert taken - done <= 4 * 3


def test_death_of_a_worker_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*_: object) -> None:
        raise BrokenProcessPool

    monkeypatch.setattr(encode.ProcessPoolExecutor, "submit", dies)
    options = encode.EncodeOptions(Path(), np.dtype(np.uint16))
    block = encode.Block(0, "a.txt", ".txt")
    with pytest.raises(PreprocessError, match="A worker process died"):
        next(encode.encode_blocks(iter([block]), options, 2))


MALFORMED = '{"text": "alpha"}\n{"text": \n{"body": "beta"}\n{"text": "gamma"}\n'


@pytest.mark.parametrize("workers", ["1", "2"])
def test_malformed_line_fails_with_file_and_line(
    tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: str
) -> None:
    (tmp_path / "a.jsonl").write_text(MALFORMED)
    source = tmp_path / "a.jsonl"
    assert run(tokenizer, source, tmp_path / "x", "--workers", workers) == 1
    error = capsys.readouterr().err
    assert f"{source}:2: " in error
    assert "--on_error skip" in error
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_malformed_lines_are_skipped_and_counted(
    tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jsonl").write_text(MALFORMED)
    source = tmp_path / "a.jsonl"
    assert run(tokenizer, source, tmp_path / "x", "--on_error", "skip") == 0
    assert len(documents(tmp_path / "x")) == 2
    out = capsys.readouterr().out
    assert f"Skipped {source}:2" in out
    assert f"Skipped {source}:3: there is no key 'text'" in out
    assert "2 records skipped" in out


def test_file_that_ends_too_early_is_reported_as_such(
    tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = write_jsonl(tmp_path / "in" / "a.jsonl", [f"text {n**5}" for n in range(3000)])
    short = whole.with_name("a.jsonl.gz")
    short.write_bytes(gzip.compress(whole.read_bytes())[:-5000])
    whole.unlink()
    write_jsonl(tmp_path / "in" / "b.jsonl", ["alpha"])
    assert run(tokenizer, tmp_path / "in", tmp_path / "x") == 1
    assert f"the rest of {short}: the compressed file is cut short" in capsys.readouterr().err
    assert run(tokenizer, tmp_path / "in", tmp_path / "x", "--on_error", "skip") == 0
    assert "1 records skipped" in capsys.readouterr().out
    decoded = [load_tokenizer(tokenizer).decode(ids) for ids in documents(tmp_path / "x")]
    assert 100 < len(decoded) < 3001
    assert decoded == [*(f"text {n**5}" for n in range(len(decoded) - 1)), "alpha"]


def test_records_that_are_not_lines_are_named_by_their_number(
    tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "part-1.json"
    source.write_text('[{"content": "alpha"}, {"title": "beta"}]')
    assert run(tokenizer, source, tmp_path / "x", "--json_key", "content") == 1
    assert f"{source}, line or element 2: there is no key" in capsys.readouterr().err


def test_failure_leaves_older_output_alone(tokenizer: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "good.jsonl", ["alpha beta"])
    (tmp_path / "bad.jsonl").write_text(MALFORMED)
    assert run(tokenizer, tmp_path / "good.jsonl", tmp_path / "x") == 0
    before = documents(tmp_path / "x")
    assert run(tokenizer, tmp_path / "bad.jsonl", tmp_path / "x") == 1
    assert documents(tmp_path / "x") == before


def test_a_full_disk_is_a_sentence_and_leaves_nothing(
    tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", ["alpha beta " * 1000] * 200)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        assert run(tokenizer, source, tmp_path / "out" / "x") == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"llm-pretrain preprocess: {tmp_path / 'out' / 'x'}: File too large")
    assert list((tmp_path / "out").iterdir()) == []


def test_max_doc_num_counts_documents_with_text(tokenizer: Path, tmp_path: Path) -> None:
    texts = ["alpha", "", "beta", "gamma", "delta"]
    source = write_jsonl(tmp_path / "a.jsonl", texts)
    with source.open("a") as file:
        file.write("malformed, but behind the last one wanted\n")
    assert run(tokenizer, source, tmp_path / "x", "--max_doc_num", "3") == 0
    loaded = load_tokenizer(tokenizer)
    decoded = [loaded.decode(ids) for ids in documents(tmp_path / "x")]
    assert decoded == ["alpha", "beta", "gamma"]


def test_repeated_characters(tokenizer: Path, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", ["a" + "-" * 101 + "b", "a" + "-" * 100 + "b"])
    loaded = load_tokenizer(tokenizer)

    def decoded(*more: str) -> list[str]:
        assert run(tokenizer, source, tmp_path / "x", *more) == 0
        return [loaded.decode(ids) for ids in documents(tmp_path / "x")]

    assert decoded() == ["a-b", "a" + "-" * 100 + "b"]
    assert decoded("--max_repeated_len", "0")[0] == "a" + "-" * 101 + "b"


@pytest.mark.parametrize(("largest", "dtype"), [(65535, np.uint16), (65536, np.int32)])
def test_token_type_is_by_the_largest_id(tmp_path: Path, largest: int, dtype: type) -> None:
    vocabulary = {f"w{number}": number for number in range(largest)}
    saved = Tokenizer(models.WordLevel({**vocabulary, "[UNK]": largest}, unk_token="[UNK]"))
    saved.pre_tokenizer = pre_tokenizers.Whitespace()
    (tmp_path / "tokenizer").mkdir()
    saved.save(str(tmp_path / "tokenizer" / "tokenizer.json"))
    source = write_jsonl(tmp_path / "a.jsonl", ["w0 unheard"])
    assert run(tmp_path / "tokenizer", source, tmp_path / "x") == 0
    assert open_data(tmp_path / "x").tokens.dtype == dtype
    assert documents(tmp_path / "x") == [[0, largest]]


def test_progress_is_reported(
    tokenizer: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(encode, "_BLOCK_RECORDS", 100)
    for name in "abc":
        source = write_jsonl(tmp_path / "texts" / f"{name}.jsonl", ["alpha"] * 200).parent
    assert run(tokenizer, source, tmp_path / "x", "--log_interval", "200") == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.match(r"200 documents, 33.3%, \d+ s left, [\d.]+ MB/s, [\d,]+ tokens/s", lines[0])
    assert lines[-1].startswith(f"Wrote {tmp_path / 'x'}.bin")
    assert "600 documents" in lines[-1]


def test_errors_of_the_arguments(
    tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", ["alpha"])
    empty = write_jsonl(tmp_path / "empty.jsonl", ["", " "])
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "tokenizer.json").write_bytes((tokenizer / "tokenizer.json").read_bytes())
    write_npy(tmp_path / "old", [1], [1], [0, 1])

    def error(*arguments: object) -> str:
        assert run(*arguments) == 1  # type: ignore[arg-type]
        return capsys.readouterr().err

    assert "holds no tokenizer" in error(tmp_path, source, tmp_path / "x")
    assert "no such file" in error(tokenizer, tmp_path / "missing", tmp_path / "x")
    assert "holds no text" in error(tokenizer, empty, tmp_path / "x")
    assert "no end-of-document" in error(tmp_path / "bare", source, tmp_path / "x", "--append_eos")
    assert "add a name" in error(tokenizer, source, f"{tmp_path}/")
    assert "older form" in error(tokenizer, source, tmp_path / "old")
    assert not (tmp_path / "x.bin").exists()
    assert main(["--workers", "0"]) == 2
    assert main(["--help"]) == 0


def test_folder_of_the_same_name_is_no_obstacle(tokenizer: Path, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "wiki" / "a.jsonl", ["alpha"])
    assert run(tokenizer, source.parent, tmp_path / "wiki") == 0
    assert len(documents(tmp_path / "wiki")) == 1


def test_writer_and_command_write_alike(tokenizer: Path, tmp_path: Path) -> None:
    texts = ["alpha", "beta gamma"]
    assert run(tokenizer, write_jsonl(tmp_path / "a.jsonl", texts), tmp_path / "x") == 0
    with IndexedWriter(tmp_path / "y", np.uint16) as writer:
        for text in texts:
            writer.add_document(load_tokenizer(tokenizer).encode(text))
    for ending in (".bin", ".idx"):
        x, y = (tmp_path / f"{name}{ending}" for name in ("x", "y"))
        assert x.read_bytes() == y.read_bytes()


def test_arguments_that_change_nothing_are_told(
    tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_jsonl(tmp_path / "texts.jsonl", random_texts(3))
    assert run(tokenizer, source, tmp_path / "out", "--data_format", "JSON") == 0
    out = capsys.readouterr().out
    assert "--data_format: no effect" in out
    assert "--data_impl" not in out


@pytest.mark.parametrize(
    ("name", "option", "package"),
    [
        ("a.jsonl.zst", None, "zstandard"),
        ("a.parquet", None, "pyarrow"),
        ("a.jsonl", "--cn_whole_word_segment", "jieba"),
    ],
)
def test_missing_package_is_named(
    tokenizer: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    option: str | None,
    package: str,
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    source = write_jsonl(tmp_path / name, ["alpha"])
    more = () if option is None else (option,)
    assert run(tokenizer, source, tmp_path / "x", "--workers", "1", *more) == 1
    needed = option or f"Files that end in {source.suffix}"
    expected = rf"{needed} needs? the package {package}: pip install 'llm_pretrain\[preprocess\]'"
    assert re.search(expected, capsys.readouterr().err)
