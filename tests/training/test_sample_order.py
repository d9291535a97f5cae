"""What a run that resumes may change of its stages of data: what comes, not what was."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from llm_pretrain.config import ConfigError, RunConfig, load_run_config, resolve_degrees
from llm_pretrain.data import open_sources
from llm_pretrain.models.families import load_model_config
from llm_pretrain.training.origin import changes, origin_of
from llm_pretrain.training.sample_order import accept_samples, sample_order, samples_in_order
from tests.small_runs import small_config, write_config, write_data, write_model

LENGTH = 32
BEFORE = [(10, "web"), (30, "1 web 3 books"), (None, "books")]
"""Until how many samples, and what."""
CONSUMED = 20
Stages = list[tuple[int | None, str]] | str


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_model(tmp_path / "model")
    for name, documents in (("web", 100), ("books", 20), ("code", 30)):
        write_data(tmp_path / name, documents=documents)
    return tmp_path


def load(folder: Path, stages: Stages, **changes: Any) -> RunConfig:
    """A run of these stages, or of one blend."""

    def blend(text: str) -> str:
        words = [word if word.isdigit() else f"{folder}/{word}/text" for word in text.split()]
        return " ".join(words)

    values: dict[str, Any] = {"input_dir": None}
    if isinstance(stages, str):
        values["input_dir"] = blend(stages)
    else:
        values["data_stages"] = [
            {"until": until and until * LENGTH, "blend": blend(text)} for until, text in stages
        ]
    config = small_config(folder / "model", folder, folder / "out", **values, **changes)
    return load_run_config(write_config(folder / "run.json", config))


def origin(run: RunConfig) -> dict[str, Any]:
    model = load_model_config(run.model.model_name_or_path, run.model, max_seq_length=LENGTH)
    return origin_of(run, model, 1, open_sources(run.data))


def saved(run: RunConfig) -> dict[str, Any]:
    """What a checkpoint of the run holds."""
    return {
        "progress": {"global_step": 2, "consumed_samples": CONSUMED},
        "sample_order": sample_order(run, 320),
        "samples_asked": 320,
        "origin": origin(run),
    }


def resumed(state: dict[str, Any], run: RunConfig) -> list[str]:
    degrees = resolve_degrees(run.training, 1)
    return accept_samples(run, state, 320, degrees, origin(run))


@pytest.mark.parametrize(
    "stages",
    [
        BEFORE,
        [*BEFORE[:2], (None, "code")],
        [*BEFORE[:2], (50, "code"), (None, "1 web 1 books")],
        [BEFORE[0], (200, BEFORE[1][1]), (None, "books")],
        [BEFORE[0], (20, BEFORE[1][1]), (None, "code")],
        [BEFORE[0], (None, BEFORE[1][1])],
    ],
)
def test_what_comes_may_change(folder: Path, stages: Stages) -> None:
    state = saved(load(folder, BEFORE))
    assert resumed(state, load(folder, stages)) == []


@pytest.mark.parametrize(
    ("stages", "stage"),
    [
        ([(10, "books"), *BEFORE[1:]], 1),
        ([(9, "web"), *BEFORE[1:]], 1),
        ([(10, "web"), (30, "1 web 2 books"), (None, "books")], 2),
        ([(10, "web"), (19, "1 web 3 books"), (None, "books")], 2),
        ([(10, "web"), (30, "3 books 1 web"), (None, "books")], 2),
        ([(None, "web")], 1),
        ([(10, "web"), (15, "1 web 3 books"), (30, "1 web 3 books"), (None, "books")], 2),
        ("web", 1),
    ],
)
def test_what_was_may_not(folder: Path, stages: Stages, stage: int) -> None:
    state = saved(load(folder, BEFORE))
    with pytest.raises(ConfigError, match=rf"640 tokens have been read, with stage {stage} as"):
        resumed(state, load(folder, stages))


def test_data_may_move(folder: Path) -> None:
    state = saved(load(folder, BEFORE))
    other = folder / "elsewhere"
    shutil.copytree(folder, other)
    assert resumed(state, load(other, BEFORE)) == []


def test_other_data_under_the_same_name_is_none_that_was_read(folder: Path) -> None:
    state = saved(load(folder, BEFORE))
    write_data(folder / "web", documents=101)
    with pytest.raises(ConfigError, match=r'stage 1 as ".*/web/text" until 320 tokens, of other f'):
        resumed(state, load(folder, BEFORE))


def test_changes_are_told(folder: Path) -> None:
    before = origin(load(folder, BEFORE))
    now = origin(load(folder, [*BEFORE[:2], (None, "code")]))
    lines = changes(before, now)
    assert [line.split(":")[0] for line in lines] == ["data_stages", "data"]


def test_a_run_of_one_blend_goes_on_in_stages_that_begin_with_it(folder: Path) -> None:
    state = saved(load(folder, "1 web 1 books"))
    run = load(folder, [(20, "1 web 1 books"), (None, "code")])
    (line,) = resumed(state, run)
    assert "a source that was beyond its first epoch comes in another order" in line
    with pytest.raises(ConfigError, match=r'with stage 1 as "1 .* to the end and not as "1 '):
        resumed(state, load(folder, [(19, "1 web 1 books"), (None, "code")]))
    with pytest.raises(ConfigError, match=r'to the end and not as ".*/web/text" until 640 tokens'):
        resumed(state, load(folder, [(20, "web"), (None, "code")]))


def test_a_run_in_its_first_stage_goes_on_with_that_blend_alone(folder: Path) -> None:
    state = saved(load(folder, [(40, "web"), (None, "books")]))
    run = load(folder, "web")
    (line,) = resumed(state, run)
    assert "another order from here on: it depends on number of samples" in line
    assert samples_in_order(run, state, 320) == 320


def test_a_checkpoint_of_an_earlier_version_says_nothing_of_stages(folder: Path) -> None:
    state = saved(load(folder, "web"))
    del state["origin"]["data"]["stages"]
    assert len(resumed(state, load(folder, BEFORE))) == 1


def test_fewer_samples_keep_no_longer_order(folder: Path) -> None:
    """Where stages say what comes next, the order doesn't depend on how much comes after it."""
    run = load(folder, BEFORE)
    assert samples_in_order(run, {**saved(run), "samples_asked": 1000}, 320) == 320
