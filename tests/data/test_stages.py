"""Data in stages, against an order that is reckoned sample by sample, with loops."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm_pretrain.config import DataArguments
from llm_pretrain.config.data_stages import samples_of_stages
from llm_pretrain.data import (
    DataError,
    Datasets,
    IndexedWriter,
    SampleCounts,
    Sources,
    build_datasets,
    data_problems,
    describe_data,
    open_sources,
)

LENGTH = 8
SEED = 3
DOCUMENTS = {"web": 60, "books": 11, "code": 25}
Sample = tuple[int, ...]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three sources; every token tells where it is from."""
    for number, (name, documents) in enumerate(DOCUMENTS.items(), 1):
        with IndexedWriter(tmp_path / name, np.uint16) as writer:
            for document in documents_of(number, documents):
                writer.add_document(document)
    return tmp_path


def documents_of(number: int, documents: int) -> list[list[int]]:
    lengths = np.random.default_rng(number).integers(3, 30, documents).tolist()
    begins = np.cumsum([10_000 * number, *lengths]).tolist()
    return [list(range(b, b + n)) for b, n in zip(begins, lengths, strict=False)]


def source_of(sample: Sample) -> str:
    return list(DOCUMENTS)[sample[0] // 10_000 - 1]


def epoch(name: str, seed: int) -> list[Sample]:
    """All samples of a source in the order that a seed gives: documents shuffled, laid end to end,
    cut, and what that gives shuffled."""
    number = list(DOCUMENTS).index(name) + 1
    documents = documents_of(number, DOCUMENTS[name])
    random = np.random.RandomState(seed)
    order = np.arange(len(documents), dtype=np.int32)
    random.shuffle(order)
    stream = [token for document in order for token in documents[document]]
    cut = []
    while len(stream) > LENGTH:
        cut.append(tuple(stream[: LENGTH + 1]))
        del stream[:LENGTH]
    places = np.arange(len(cut), dtype=np.uint32)
    random.shuffle(places)
    return [cut[place] for place in places]


def reckoned(stages: list[tuple[float | None, dict[str, float]]], samples: int) -> list[Sample]:
    """The samples of a run, one after another."""
    stood: dict[str, list[Sample]] = defaultdict(list)
    epochs: dict[str, int] = defaultdict(int)
    current = None
    found = []
    for number in range(samples):
        stage = next(
            which
            for which, (until, _) in enumerate(stages)
            if until is None or number * LENGTH < until
        )
        if stage != current:
            current, taken, count = stage, dict.fromkeys(stages[stage][1], 0), 0
        weights = stages[stage][1]
        total = sum(weights.values())
        behind = {name: weights[name] / total * max(count, 1) - taken[name] for name in weights}
        name = max(behind, key=lambda each: behind[each])  # the first of equals
        taken[name] += 1
        count += 1
        if not stood[name]:
            stood[name] = epoch(name, SEED + epochs[name])
            epochs[name] += 1
        found.append(stood[name].pop(0))
    return found


STAGES: list[tuple[float | None, dict[str, float]]] = [
    (500.5, {"web": 1}),
    (1500, {"web": 3, "books": 1}),
    (1801, {"books": 0.5, "code": 0.5}),
    (None, {"code": 1, "web": 5, "books": 2}),
]


def written(folder: Path, stages: Any) -> list[dict[str, Any]]:
    return [
        {"until": until, "blend": " ".join(f"{w} {folder}/{n}" for n, w in weights.items())}
        for until, weights in stages
    ]


def arguments(stages: list[dict[str, Any]], **changes: Any) -> DataArguments:
    values = {"split": "1,0,0", "max_seq_length": LENGTH, **changes}
    return DataArguments(data_stages=stages, **values)


def build(data: DataArguments, samples: int, **counts: int) -> Datasets:
    of_stages = samples_of_stages(data.data_stages or (), samples, data.max_seq_length)
    wanted = SampleCounts(train=samples, stages=of_stages, **counts)
    return build_datasets(data, wanted, seed=SEED, builder=True, timeout_s=1, vocab_size=None)


def samples_of(datasets: Datasets, split: str = "train") -> list[Sample]:
    dataset = getattr(datasets, split)
    return [(*dataset[n].inputs.tolist(), int(dataset[n].labels[-1])) for n in range(len(dataset))]


def opened(stages: list[dict[str, Any]], samples: int) -> tuple[Sources, SampleCounts]:
    data = arguments(stages)
    of_stages = samples_of_stages(data.data_stages or (), samples, LENGTH)
    return open_sources(data, of_stages), SampleCounts(train=samples, stages=of_stages)


@pytest.mark.parametrize("samples", [40, 63, 64, 188, 600])
def test_the_samples_are_those_of_a_reckoning_with_loops(folder: Path, samples: int) -> None:
    found = samples_of(build(arguments(written(folder, STAGES)), samples))
    assert found == reckoned(STAGES, samples)


def test_no_sample_comes_twice_before_its_epoch_is_over(folder: Path) -> None:
    found = samples_of(build(arguments(written(folder, STAGES)), 900))
    for name in DOCUMENTS:
        of_source = [sample for sample in found if source_of(sample) == name]
        each = len(epoch(name, SEED))
        assert len(of_source) > 1.5 * each
        for begin in range(0, len(of_source), each):
            part = of_source[begin : begin + each]
            assert len(set(part)) == len(part)
        assert of_source[:each] != of_source[each : 2 * each]


def test_a_source_has_in_the_mix_the_order_that_it_has_alone(folder: Path) -> None:
    found = samples_of(build(arguments(written(folder, STAGES)), 900))
    for name in DOCUMENTS:
        of_source = [sample for sample in found if source_of(sample) == name]
        alone = build(arguments(written(folder, [(None, {name: 1})])), len(of_source))
        assert samples_of(alone) == of_source
        # And in its first epoch that of `input_dir`, which is PaddleNLP's.
        plain = DataArguments(input_dir=f"{folder}/{name}", split="1,0,0", max_seq_length=LENGTH)
        each = len(epoch(name, SEED))
        assert samples_of(build(plain, each)) == of_source[:each]


def test_a_run_of_input_dir_goes_on_in_stages_within_an_epoch(folder: Path) -> None:
    blend = f"1 {folder}/web 1 {folder}/code"
    plain = DataArguments(input_dir=blend, split="1,0,0", max_seq_length=LENGTH)
    before = samples_of(build(plain, 40))
    later = [{"until": 40 * LENGTH, "blend": blend}, {"blend": f"{folder}/books"}]
    assert samples_of(build(arguments(later), 60))[:40] == before


@pytest.mark.parametrize("at", [64, 100, 188, 400])
def test_what_comes_later_changes_nothing_before(folder: Path, at: int) -> None:
    """Whatever begins at this sample, and however long the run is."""
    whole = samples_of(build(arguments(written(folder, STAGES)), 600))
    past = [stage for stage in STAGES if (stage[0] or 1e9) < at * LENGTH]
    now = STAGES[len(past)][1]
    stages = [*past, (at * LENGTH, now), (None, {"code": 1})]
    changed = samples_of(build(arguments(written(folder, stages)), 450))
    assert changed[:at] == whole[:at]
    assert {source_of(sample) for sample in changed[at:]} == {"code"}


def test_one_source_goes_on_however_it_is_named(folder: Path) -> None:
    (folder / "link").symlink_to(folder)
    (folder / "mix").mkdir()
    (folder / "mix" / "blend.yaml").write_text(
        "- {name: pages, path: ../web, weight: 0.5}\n- {name: prose, path: ../books, weight: 0.5}\n"
    )
    ways = [f"{folder}/web", f"1 {folder}/link/web.bin", f"{folder}/./web"]
    stages: list[dict[str, Any]] = [
        {"until": 80 * number, "blend": way} for number, way in enumerate(ways, 1)
    ]
    stages.append({"blend": f"{folder}/mix/blend.yaml"})
    found = [
        sample for sample in samples_of(build(arguments(stages), 60)) if source_of(sample) == "web"
    ]
    assert found == epoch("web", SEED)[: 30 + 15]


def test_a_source_that_a_blend_names_twice_goes_on_there(folder: Path) -> None:
    stages = [{"blend": f"1 {folder}/web 1 {folder}/web"}]
    assert samples_of(build(arguments(stages), 50)) == epoch("web", SEED)[:50]


def test_a_source_may_pause(folder: Path) -> None:
    stages = [
        {"until": 160, "blend": f"1 {folder}/web 1 {folder}/code"},
        {"until": 320, "blend": f"0 {folder}/web 1 {folder}/code"},
        {"blend": f"{folder}/web"},
    ]
    datasets = build(arguments(stages), 60)
    found = samples_of(datasets)
    assert found[40:] == epoch("web", SEED)[10:30]
    assert f"Stage 2: {folder}/web has the share 0 and is not read." in datasets.notices


def test_validation_is_of_every_source_in_its_share_of_the_run(folder: Path) -> None:
    """Of 100 samples 50 are of web, 25 + 25 of web and books: 62.5 %, 37.5 %."""
    stages = written(folder, [(400, {"web": 1}), (800, {"web": 1, "books": 3})])
    stages += [{"blend": f"{folder}/code"}]
    data = arguments(stages, split="60,40,0")
    sources = open_sources(data, samples_of_stages(data.data_stages or (), 100, LENGTH))
    assert sources.shares == pytest.approx((0.625, 0.375))
    datasets = build(data, 100, valid=16)
    names = [source_of(sample) for sample in samples_of(datasets, "valid")]
    assert {name: names.count(name) for name in set(names)} == {"web": 10, "books": 6}


def test_a_run_that_only_evaluates_has_the_same_set(folder: Path) -> None:
    data = arguments(written(folder, STAGES), split="60,40,0")
    trained = build(data, 600, valid=12)
    counts = SampleCounts(valid=12, stages=samples_of_stages(data.data_stages or (), 600, LENGTH))
    alone = build_datasets(data, counts, seed=SEED, builder=True, timeout_s=1, vocab_size=None)
    assert alone.train is None
    assert samples_of(alone, "valid") == samples_of(trained, "valid")


def test_the_stages_are_shown(folder: Path) -> None:
    stages = [
        {"until": 800, "blend": f"{folder}/web"},
        {"until": 1600, "blend": f"3 {folder}/web 1 {folder}/books"},
        {"until": 1e6, "blend": f"{folder}/code"},
        {"blend": f"{folder}/code"},
    ]
    sources, counts = opened(stages, 200)
    lines = describe_data(sources, counts=counts)
    assert lines[1:5] == [
        "Stage 1, until 800 tokens: 100 samples: web 100.0000%",
        "Stage 2, until 1,600 tokens: 100 samples: web 75.0000%, books 25.0000%",
        "Stage 3, until 1,000,000 tokens: the run does not reach it",
        "Stage 4, to the end: the run does not reach it",
    ]
    rows = {line.split()[-1]: line.split() for line in lines}
    tokens = {name: sum(map(len, documents_of(i, DOCUMENTS[name]))) for name, i in IDS.items()}
    assert rows["web"][2:4] == ["87.50%", f"{175 * LENGTH / tokens['web']:.2f}"]
    assert rows["books"][2:4] == ["12.50%", f"{25 * LENGTH / tokens['books']:.2f}"]
    assert "code" not in rows
    assert data_problems(sources, counts) == []
    notices = build(arguments(stages), 200).notices
    assert set(lines[1:5]) <= set(notices)


IDS = {"web": 1, "books": 2}


def test_epochs_of_a_blend_file_are_those_of_its_stage(folder: Path) -> None:
    (folder / "blend.yaml").write_text("- {name: all, path: web, epochs: 2}\n")
    each = len(epoch("web", SEED))
    stages = [{"until": 80, "blend": f"{folder}/code"}, {"blend": f"{folder}/blend.yaml"}]
    found = samples_of(build(arguments(stages), 10 + 2 * each))
    assert found[10:] == epoch("web", SEED) + epoch("web", SEED + 1)
    with pytest.raises(
        DataError, match=rf"Stage 2 takes {2 * each + 1} samples.*shorten the stage"
    ):
        build(arguments(stages), 11 + 2 * each)
    (problem,) = data_problems(*opened(stages, 11 + 2 * each))
    assert problem.startswith("Stage 2 takes")


def test_all_that_is_missing_is_said_with_its_stage(folder: Path) -> None:
    stages = [
        {"until": 80, "blend": f"1 {folder}/wep 1 {folder}/web 2 {folder}/cod"},
        {"until": 160, "blend": f"{folder}/web"},
        {"blend": "nowhere/at/all"},
    ]
    with pytest.raises(DataError) as error:
        # Where a run does not get, too.
        open_sources(arguments(stages), (10, 0, 0))
    message = str(error.value)
    assert f"data_stages, stage 1 names {folder}/wep, {folder}/cod, and there are no" in message
    assert "data_stages, stage 3 names nowhere/at/all, and there are no such files" in message
    assert message.count("Expected are pairs") == 1


@pytest.mark.parametrize(
    ("blend", "message"),
    [
        ("0 web 0 books", "data_stages, stage 1 is .*: all its weights are 0"),
        ("1 web books", "data_stages, stage 1 is .*pairs of a weight and a prefix"),
        ("1 web books code", 'data_stages, stage 1 is .*"books" stands where a weight must be'),
    ],
)
def test_a_blend_without_weights_is_an_error(folder: Path, blend: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_sources(arguments([{"blend": blend}]))


def test_another_process_reads_the_index_that_one_has_built(folder: Path) -> None:
    data = arguments(written(folder, STAGES))
    built = samples_of(build(data, 600))
    counts = SampleCounts(train=600, stages=samples_of_stages(data.data_stages or (), 600, LENGTH))
    read = build_datasets(data, counts, seed=SEED, builder=False, timeout_s=0.1, vocab_size=None)
    assert samples_of(read) == built
