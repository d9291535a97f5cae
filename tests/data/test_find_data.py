from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llm_pretrain.data import DataError, IndexedWriter
from llm_pretrain.data.find_data import find_data, open_data
from tests.data.npy_files import write_npy


def make(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    for name in names:
        (folder / name).write_bytes(b"")
    return folder


def test_folder_is_sorted_and_weighted_alike(tmp_path: Path) -> None:
    make(tmp_path, "b.idx", "b.bin", "a.bin", "a.idx", "c_ids.npy", "c_idx.npz", "notes.md")
    make(tmp_path / "index-cache", "x.npy")
    inputs = find_data(str(tmp_path))
    assert inputs.prefixes == (tmp_path / "a", tmp_path / "b", tmp_path / "c")
    assert inputs.weights == (1.0, 1.0, 1.0)


def test_single_pair_is_not_blended(tmp_path: Path) -> None:
    make(tmp_path, "web.idx", "web.bin", "web.lsm")
    inputs = find_data(str(tmp_path))
    assert inputs.prefixes == (tmp_path / "web",)
    assert inputs.weights is None


def test_both_forms_of_one_prefix_are_one_dataset(tmp_path: Path) -> None:
    write_npy(tmp_path / "x", [1, 2], [2], [0, 1])
    with IndexedWriter(tmp_path / "x", np.uint16) as writer:
        writer.add_document([3, 4, 5])
    assert find_data(str(tmp_path)).prefixes == (tmp_path / "x",)
    data = open_data(tmp_path / "x")
    assert data.tokens.tolist() == [1, 2]
    assert "x_ids.npy is read" in data.notices[0]


@pytest.mark.parametrize("ending", ["", ".bin", ".idx"])
def test_one_prefix(tmp_path: Path, ending: str) -> None:
    make(tmp_path, "web.v1.idx", "web.v1.bin")
    inputs = find_data(str(tmp_path / "web.v1") + ending)
    assert inputs.prefixes == (tmp_path / "web.v1",)
    assert inputs.weights is None


def test_weights_and_prefixes(tmp_path: Path) -> None:
    make(tmp_path, "a.idx", "a.bin", "b.idx", "b.bin")
    inputs = find_data(f"0.7 {tmp_path}/b  3 {tmp_path}/a")
    assert inputs.prefixes == (tmp_path / "b", tmp_path / "a")
    assert inputs.weights == (0.7, 3.0)
    assert find_data(f"1.0 {tmp_path}/b").weights == (1.0,)


def test_spaces_in_a_folder_or_prefix(tmp_path: Path) -> None:
    folder = make(tmp_path / "my own data", "a b.idx", "a b.bin")
    assert find_data(str(folder)).prefixes == (folder / "a b",)
    assert find_data(str(folder / "a b")).prefixes == (folder / "a b",)


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("web.bin", "web.idx"),
        ("web.idx", "web.bin"),
        ("web_ids.npy", "web_idx.npz"),
        ("web_idx.npz", "web_ids.npy"),
    ],
)
def test_half_a_pair_is_an_error(tmp_path: Path, name: str, other: str) -> None:
    make(tmp_path, "a.idx", "a.bin", name)
    with pytest.raises(DataError, match=f"{name} has no {other} beside it"):
        find_data(str(tmp_path))


@pytest.mark.parametrize("value", [None, "", "  "])
def test_unset_is_an_error(value: str | None) -> None:
    with pytest.raises(DataError, match="input_dir is not set"):
        find_data(value)


def test_nothing_found_says_what_was_expected(tmp_path: Path) -> None:
    make(tmp_path, "text.jsonl")
    for value in (tmp_path, tmp_path / "missing"):
        with pytest.raises(DataError, match=r"<name>\.bin and <name>\.idx .*`llm-pretrain prepro"):
            find_data(str(value))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("0.5 {0}/a 0.5", "pairs of a weight and a prefix"),
        ("{0}/a 0.5", "stands where a weight must be"),
        ("-1 {0}/a", "stands where a weight must be"),
        ("nan {0}/a", "stands where a weight must be"),
        ("0 {0}/a 0 {0}/a", "all its weights are 0"),
        ("1 {0}/a 2 {0}/b", "names .*/b, and there are no such files"),
    ],
)
def test_wrong_weights_and_prefixes(tmp_path: Path, value: str, message: str) -> None:
    make(tmp_path, "a.idx", "a.bin")
    with pytest.raises(DataError, match=message):
        find_data(value.format(tmp_path))


def test_what_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a.idx", "a.bin")

    def denied(path: Path, *_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(DataError, match=r"a\.idx can't be read: Permission denied"):
        open_data(tmp_path / "a")
    monkeypatch.setattr(Path, "iterdir", denied)
    with pytest.raises(DataError, match=r"input_dir .* can't be read: Permission denied"):
        find_data(str(tmp_path))


def test_prefixes_are_kept_as_paddlenlp_spells_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its cache files are named by them."""
    make(tmp_path / "data", "a.idx", "a.bin", "b.idx", "b.bin")
    monkeypatch.chdir(tmp_path)
    assert find_data("data").written == ("data/a", "data/b")
    assert find_data("./data/").written == ("./data/a", "./data/b")
    assert find_data("./data/a").written == ("./data/a",)
    assert find_data("1 data//a 2 ./data/b").written == ("data//a", "./data/b")


def test_weight_0_is_left_out_and_said(tmp_path: Path) -> None:
    make(tmp_path, "a.idx", "a.bin", "b.idx", "b.bin", "c.idx", "c.bin")
    inputs = find_data(f"0 {tmp_path}/a 2 {tmp_path}/b 1 {tmp_path}/c")
    assert inputs.prefixes == (tmp_path / "b", tmp_path / "c")
    assert inputs.weights == (2.0, 1.0)
    assert inputs.written == (f"{tmp_path}/b", f"{tmp_path}/c")
    assert inputs.notices == (f"{tmp_path}/a has the share 0 and is not read.",)


def test_a_blend_may_be_longer_than_a_path(tmp_path: Path) -> None:
    make(tmp_path, "web.idx", "web.bin")
    pairs = [f"1 {tmp_path}/web" for _ in range(400)]
    assert len(" ".join(pairs)) > 4096
    assert len(find_data(" ".join(pairs)).prefixes) == 400
    with pytest.raises(DataError, match="no such files"):
        find_data("x" * 5000)
