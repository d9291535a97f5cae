"""merge, split and convert: the same documents in other files."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm_pretrain.cli import main
from llm_pretrain.data import IndexedWriter, rewrite
from llm_pretrain.data.find_data import open_data
from tests.data.npy_files import write_npy

Documents = list[list[list[int]]]


def write(prefix: Path, documents: Documents, dtype: str = "u2", *, masked: bool = False) -> None:
    with IndexedWriter(prefix, np.dtype(dtype), masked=masked) as writer:
        for document in documents:
            for sequence in document:
                writer.add_sequence(sequence, [n % 2 for n in sequence] if masked else None)
            writer.end_document()


def read(prefix: Path) -> Documents:
    data = open_data(prefix)
    rows = [data.read(i, 0, None) for i in range(len(data.sizes))]
    assert all(mask is None or (mask == tokens % 2).all() for tokens, mask in rows)
    starts = data.document_starts
    return [
        [rows[i][0].tolist() for i in range(starts[d], starts[d + 1])]
        for d in range(data.documents)
    ]


def same_files(one: Path, other: Path, *endings: str) -> bool:
    return all(
        one.with_name(one.name + ending).read_bytes()
        == other.with_name(other.name + ending).read_bytes()
        for ending in (".bin", ".idx", *endings)
    )


sequences = st.lists(st.integers(0, 200), max_size=4)
# At least one token, since data without any can't be opened.
parts = st.lists(st.lists(sequences, max_size=3), min_size=1, max_size=5).map(
    lambda documents: [*documents, [[1]]]
)


@settings(
    max_examples=60,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(parts, min_size=1, max_size=3), st.booleans())
def test_merged_is_as_if_written_at_once(
    tmp_path: Path, given_parts: list[Documents], masked: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rewrite, "_SEQUENCES", 4)
        patch.setattr(rewrite, "_TOKENS", 5)
        for number, documents in enumerate(given_parts):
            write(tmp_path / str(number), documents, masked=masked)
        prefixes = [tmp_path / str(number) for number in range(len(given_parts))]
        rewrite.merge([open_data(prefix) for prefix in prefixes], tmp_path / "merged")
    everything = [document for documents in given_parts for document in documents]
    write(tmp_path / "whole", everything, masked=masked)
    assert same_files(tmp_path / "merged", tmp_path / "whole", *([".lsm"] if masked else []))


@pytest.mark.parametrize("masked", [False, True])
def test_split_parts_merge_to_the_whole(tmp_path: Path, masked: bool) -> None:
    random = np.random.default_rng(0)
    documents = [
        [random.integers(0, 500, random.integers(1, 40)).tolist() for _ in range(1 + d % 3)]
        for d in range(300)
    ]
    write(tmp_path / "whole", documents, masked=masked)
    assert main(["split", f"{tmp_path}/whole", "--shares", "7,2,1"]) == 0
    parts = [open_data(tmp_path / f"whole_{number}") for number in range(3)]
    total = sum(part.token_count for part in parts)
    for part, share in zip(parts, (0.7, 0.2, 0.1), strict=True):
        # No document is longer than 117 tokens.
        assert abs(part.token_count - share * total) <= 117
    inputs = [f"{tmp_path}/whole_{number}" for number in range(3)]
    assert main(["merge", *inputs, "--output_prefix", f"{tmp_path}/again"]) == 0
    endings = [".lsm"] if masked else []
    assert same_files(tmp_path / "again", tmp_path / "whole", *endings)


def test_merge_of_a_folder_by_the_names_of_paddlenlp(tmp_path: Path) -> None:
    for name, token in (("b", 2), ("a", 1), ("c", 70000)):
        write(tmp_path / "in" / name, [[[token]]], "i4" if token > 65535 else "u2")
    words = ["merge", "--input", f"{tmp_path}/in", "--output-prefix", f"{tmp_path}/x"]
    assert main([*words, "--data_impl", "mmap"]) == 0
    assert read(tmp_path / "x") == [[[1]], [[2]], [[70000]]]
    assert open_data(tmp_path / "x").tokens.dtype == np.int32


def test_sequences_that_lie_in_another_order(tmp_path: Path) -> None:
    write(tmp_path / "x", [[[1, 2]], [[3]]])
    index = tmp_path / "x.idx"
    content = bytearray(index.read_bytes())
    content[34:58] = np.array([1, 2], "<i4").tobytes() + np.array([4, 0], "<i8").tobytes()
    index.write_bytes(content)
    assert main(["merge", f"{tmp_path}/x", "--output_prefix", f"{tmp_path}/y"]) == 0
    assert read(tmp_path / "y") == [[[3]], [[1, 2]]]


def test_convert_of_the_older_form(tmp_path: Path) -> None:
    write_npy(tmp_path / "old", np.array([5, 6, 7, 8], np.int32), [1, 2, 1], [0, 2, 3])
    for given_name in ("old", "old_ids.npy", "old_idx.npz"):
        assert main(["convert", f"{tmp_path}/{given_name}", f"{tmp_path}/new"]) == 0
        assert read(tmp_path / "new") == [[[5], [6, 7]], [[8]]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["merge", "T/a", "T/masked", "--output_prefix", "T/x"], "masked has a loss mask (.lsm)"),
        (["merge", "T/a", "--output_prefix", "T/a"], "is one of the inputs"),
        (["merge", "T/a", "T/none", "--output_prefix", "T/x"], "none, and there are no such files"),
        (["merge", "--output_prefix", "T/x"], "name the prefixes or folders"),
        (["split", "T/a", "--shares", "1,1,1"], "has 2 documents: that is too few"),
        (["convert", "T/missing_ids.npy", "T/x"], "there are no such files"),
    ],
)
def test_errors_and_what_was_there_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    write(tmp_path / "a", [[[1]], [[2]]])
    write(tmp_path / "masked", [[[1]]], masked=True)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert main([word.replace("T/", f"{tmp_path}/") for word in words]) == 1
    assert message in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("shares", ["1", "1,x", "1,0", ""])
def test_shares_that_are_none(
    tmp_path: Path, shares: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["split", f"{tmp_path}/a", "--shares", shares]) == 2
    assert "two or more numbers above 0 are needed" in " ".join(capsys.readouterr().err.split())


def test_a_full_disk_is_a_sentence_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "in" / "a", [[list(range(1000))]] * 100)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        output = tmp_path / "out" / "b"
        assert main(["merge", str(tmp_path / "in" / "a"), "--output_prefix", str(output)]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{output}: File too large" in line
    assert list(output.parent.iterdir()) == []


@pytest.mark.parametrize(("last", "is_said"), [(1, False), (3, True)])
def test_merge_says_where_one_input_gives_all_validation_documents(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], last: int, is_said: bool
) -> None:
    """The default split validates on the last twentieth of the documents."""
    for name, documents in (("a", 38), ("b", last)):
        write(tmp_path / name, [[[1, 2]]] * documents)
    inputs = [str(tmp_path / name) for name in "ab"]
    assert main(["merge", *inputs, "--output_prefix", str(tmp_path / "whole")]) == 0
    said = f"the default split validates on {tmp_path}/b alone"
    assert (said in capsys.readouterr().out) == is_said
