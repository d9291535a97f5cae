from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llm_pretrain.config import DataArguments
from llm_pretrain.data import (
    DataError,
    Datasets,
    IndexedWriter,
    SampleCounts,
    build_datasets,
    data_problems,
    open_sources,
)
from llm_pretrain.data.blend import read_blend_file


def write(prefix: Path, token: int, documents: int) -> None:
    """Documents of ten times the same token."""
    with IndexedWriter(prefix, np.uint16) as writer:
        for _ in range(documents):
            writer.add_document([token] * 10)


def blend(folder: Path, text: str) -> Path:
    path = folder / "blend.yaml"
    path.write_text(text)
    return path


def arguments(path: Path) -> DataArguments:
    return DataArguments(input_dir=str(path), split="1,0,0", max_seq_length=5)


def build(path: Path, samples: int) -> Datasets:
    counts = SampleCounts(train=samples)
    return build_datasets(
        arguments(path), counts, seed=1, builder=True, timeout_s=1, vocab_size=None
    )


def taken(datasets: Datasets) -> dict[int, int]:
    """Samples of each dataset, told by their tokens."""
    assert datasets.train is not None
    tokens = [int(datasets.train[number].inputs[0]) for number in range(len(datasets.train))]
    return {token: tokens.count(token) for token in sorted(set(tokens))}


def test_weights_relative_to_the_file(tmp_path: Path) -> None:
    write(tmp_path / "web" / "text", 1, 100)
    write(tmp_path / "books", 2, 100)
    path = blend(
        tmp_path,
        "- {name: web, path: web/text, weight: 3}\n- {name: books, path: books, weight: 1e0}\n",
    )
    datasets = build(path, 40)
    assert taken(datasets) == {1: 30, 2: 10}
    assert "Blend: web 75.0000%, books 25.0000%" in datasets.notices


def test_order_is_that_of_weights_and_prefixes(tmp_path: Path) -> None:
    write(tmp_path / "a", 1, 100)
    write(tmp_path / "b", 2, 70)
    path = blend(tmp_path, "- {name: x, path: a, weight: 0.7}\n- {name: y, path: b, weight: 0.3}\n")
    of_file = build(path, 60).train
    words = DataArguments(
        input_dir=f"0.7 {tmp_path}/a 0.3 {tmp_path}/b", split="1,0,0", max_seq_length=5
    )
    of_words = build_datasets(
        words, SampleCounts(train=60), seed=1, builder=True, timeout_s=1, vocab_size=None
    ).train
    assert of_file is not None
    assert of_words is not None
    for number in range(60):
        np.testing.assert_array_equal(of_file[number].inputs, of_words[number].inputs)


def test_files_of_a_folder_share_its_weight_by_tokens(tmp_path: Path) -> None:
    write(tmp_path / "web" / "a", 1, 300)
    write(tmp_path / "web" / "b", 2, 100)
    write(tmp_path / "books", 3, 10)
    path = blend(
        tmp_path, "- {name: web, path: web, weight: 1}\n- {name: books, path: books, weight: 1}\n"
    )
    assert taken(build(path, 80)) == {1: 30, 2: 10, 3: 40}


def test_epochs(tmp_path: Path) -> None:
    """200 and 100 samples in an epoch: 1 and 3 epochs of them are 200 and 300."""
    write(tmp_path / "a", 1, 100)
    write(tmp_path / "b", 2, 50)
    path = blend(tmp_path, "- {name: a, path: a, epochs: 1}\n- {name: b, path: b, epochs: 3}\n")
    # The last token of an epoch begins no sample, so that 199 and 3 × 99 are whole.
    datasets = build(path, 496)
    assert "Blend: a 40.0000% (1 epochs), b 60.0000% (3 epochs)" in datasets.notices
    counts = taken(datasets)
    assert abs(counts[1] - 199) <= 1
    assert abs(counts[2] - 297) <= 1
    with pytest.raises(DataError, match=r"give only 496: .* lower max_steps to 50\.00%") as error:
        build(path, 992)
    problems = data_problems(open_sources(arguments(path)), SampleCounts(train=992))
    assert problems == [str(error.value)]


def test_glob_is_one_dataset_of_several_files(tmp_path: Path) -> None:
    for number, documents in enumerate((60, 20, 20), 1):
        write(tmp_path / f"crawl/{number % 2}/part-{number}", number, documents)
    write(tmp_path / "crawl/1/other", 4, 20)
    write(tmp_path / "books", 5, 100)
    books = "- {name: books, path: books, weight: 1}\n"
    for pattern in ("crawl/*/part-*", "crawl/**/part-[123].bin"):
        path = blend(tmp_path, f"- {{name: crawl, path: '{pattern}', weight: 1}}\n" + books)
        datasets = build(path, 100)
        assert taken(datasets) == {1: 30, 2: 10, 3: 10, 5: 50}
        assert "Blend: crawl 50.0000%, books 50.0000%" in datasets.notices
    with pytest.raises(DataError, match=r"part-\?\.txt, which matches no training data"):
        build(blend(tmp_path, "- {name: a, path: 'crawl/*/part-?.txt', weight: 1}\n"), 10)


def test_sign_of_a_glob_in_a_name(tmp_path: Path) -> None:
    write(tmp_path / "text[1]", 7, 100)
    assert taken(build(blend(tmp_path, "- {name: a, path: 'text[1]', weight: 1}\n"), 9)) == {7: 9}


def test_share_0_is_left_out_and_said(tmp_path: Path) -> None:
    write(tmp_path / "a", 1, 100)
    write(tmp_path / "b", 2, 100)
    path = blend(
        tmp_path, "- {name: none, path: a, weight: 0}\n- {name: all, path: b, weight: 1}\n"
    )
    datasets = build(path, 40)
    assert taken(datasets) == {2: 40}
    assert any("none" in notice and "not read" in notice for notice in datasets.notices)


GOOD = "- {name: a, path: a, weight: 1}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no blend: it must be a list"),
        ("name: a\n", "is no blend: it must be a list"),
        ("- a\n", "line 1: a dataset must be written as"),
        (GOOD + "- {path: a, weight: 1}\n", "line 2: the dataset has no name"),
        ("- {name: a, weight: 1}\n", "line 1: the dataset has no path"),
        ("- {name: a, path: a}\n", "line 1: dataset 'a' needs either weight or epochs"),
        ("- {name: a, path: a, weight: 1, epochs: 1}\n", "'a' needs either weight or epochs"),
        (GOOD + "- {name: b, path: a, epochs: 1}\n", "weight to some datasets and epochs to"),
        (GOOD + "- name: b\n  path: a\n  wieght: 1\n", "line 4: 'wieght' is no key"),
        ("- {name: a, path: a, weight: 1, weight: 2}\n", "line 1: weight is given twice"),
        ("- {name: a, path: [a], weight: 1}\n", "path must be a single value"),
        ("- {name: a, path: a, weight: -1}\n", "line 1: weight is '-1'"),
        ("- {name: a, path: a, weight: .inf}\n", "line 1: weight is '.inf'"),
        ("- {name: a, path: a, epochs: true}\n", "line 1: epochs is 'true'"),
        ("- {name: a, path: a, epochs: 0}\n", "every dataset has weight or epochs 0"),
        (GOOD + GOOD, "line 2: the name 'a' is used twice"),
        ("- {name: a, path: missing, weight: 1}\n", "missing, and there are no such files"),
        ("- {name: a\n", "is not YAML"),
        ("[" * 20000, "is not YAML"),
        ("- !!python/object/apply:os.abort []\n", "a dataset must be written as"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path / "a", 1, 10)
    with pytest.raises(DataError) as error:
        build(blend(tmp_path, text), 10)
    assert message in str(error.value)


def test_no_endless_file(tmp_path: Path) -> None:
    path = tmp_path / "blend.yaml"
    with path.open("wb") as file:
        file.truncate(17 << 20)
    with pytest.raises(DataError, match="larger than 16 MiB"):
        build(path, 10)


def test_paths_may_have_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/people/anna")
    monkeypatch.setenv("SOURCE", "web")
    monkeypatch.delenv("NOWHERE", raising=False)
    path = tmp_path / "blend.yaml"
    path.write_text("- {name: a, path: ~/a, weight: 1}\n- {name: b, path: $SOURCE/b, weight: 1}\n")
    assert [entry.path for entry in read_blend_file(path)] == [
        Path("/people/anna/a"),
        tmp_path / "web/b",
    ]
    path.write_text("- name: a\n  path: $NOWHERE/a\n  weight: 1\n")
    with pytest.raises(DataError, match=r"blend.yaml, line 1: path: .*NOWHERE is not set"):
        read_blend_file(path)
