"""Checkpoints beside the training, saves that fail, and when they are due."""

from __future__ import annotations

import filecmp
import json
import math
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_pretrain.checkpoint import background
from llm_pretrain.checkpoint.checksums import FILE_NAME as CHECKSUMS_FILE
from llm_pretrain.checkpoint.checksums import assert_whole
from llm_pretrain.checkpoint.directory import STATE_FILE, checkpoints_in, step_of
from llm_pretrain.training.run import run
from llm_pretrain.training.saves import Saves, best_interval
from tests.launching import RUN_PRETRAIN, Job, logged, run_job
from tests.small_runs import small_config, write_config, write_data, write_model


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saves")
    write_data(folder / "data")
    write_model(folder / "model")
    return folder


def config_in(shared: Path, output_dir: Path, **changes: Any) -> Path:
    config = small_config(
        shared / "model",
        shared / "data",
        output_dir,
        **{"max_steps": 8, "save_strategy": "steps", "save_steps": 3, "use_async_save": True}
        | changes,
    )
    return write_config(output_dir.with_suffix(".json"), config)


def steps_saved(output_dir: Path) -> list[int]:
    return [step_of(path) for path in checkpoints_in(output_dir)]


def assert_same_files(one: Path, other: Path) -> None:
    """Two checkpoints hold the same, but for the configuration that they say they are of."""
    names = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(other) for path in other.rglob("*") if path.is_file())
    assert len(names) > 4
    for name in names:
        if str(name) == STATE_FILE:
            states = [json.loads((folder / name).read_text()) for folder in (one, other)]
            for state in states:
                state["origin"]["run"].pop("use_async_save")
                state["origin"]["run"].pop("output_dir", None)
            assert states[0] == states[1]
        elif str(name) != CHECKSUMS_FILE:
            assert filecmp.cmp(one / name, other / name, shallow=False), name
    for folder in (one, other):
        assert_whole(folder)


LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "alone, float32": (1, {}),
    "alone, float32, fused": (1, {"fuse_attention_qkv": True, "fuse_attention_ffn": True}),
    "alone, bfloat16": (1, {"bf16": True, "fp16_opt_level": "O2"}),
    "sharding 2, stage 3, bfloat16": (
        2,
        {"sharding": "stage3", "bf16": True, "fp16_opt_level": "O2"},
    ),
    "tensor 2, bfloat16": (
        2,
        {"tensor_parallel_degree": 2, "bf16": True, "fp16_opt_level": "O2"},
    ),
    "tensor 2, pipeline 2": (4, {"tensor_parallel_degree": 2, "pipeline_parallel_degree": 2}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_written_beside_the_training_is_what_would_have_been_written_at_once(
    shared: Path, tmp_path: Path, layout: str, capsys: pytest.CaptureFixture[str]
) -> None:
    processes, options = LAYOUTS[layout]
    options = {"gradient_accumulation_steps": 4, **options}
    for name, is_beside in (("beside", True), ("at-once", False)):
        config = config_in(shared, tmp_path / name, use_async_save=is_beside, **options)
        if processes == 1:
            assert run([str(config)]) == 0
            console = capsys.readouterr().out
        else:
            log = tmp_path / f"{name}-log"
            console = run_job(RUN_PRETRAIN, config, processes=processes, log_dir=log)
        assert ("written beside the training: a copy" in console) == is_beside
        assert steps_saved(tmp_path / name) == [3, 6, 8]
        assert not list((tmp_path / name).glob("*.writing"))
    for step in (3, 6, 8):
        folders = [tmp_path / name / f"checkpoint-{step}" for name in ("beside", "at-once")]
        assert_same_files(*folders)
    # At its end a run writes the weights that it has; a checkpoint's are made of the masters.
    final = list((tmp_path / "beside").glob("model*.safetensors"))
    assert final
    for path in final:
        assert filecmp.cmp(path, folders[0] / path.name, shallow=False), path.name


def test_a_save_that_fails_does_not_end_the_run(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "output"
    output.mkdir()
    # A file where the folder would be made.
    (output / "checkpoint-3.writing").touch()
    assert run([str(config_in(shared, output))]) == 0
    text = capsys.readouterr().out
    assert "A checkpoint could not be saved (failure 1 of at most 3 in a row)" in text
    assert "checkpoint-3.writing: File exists" in text
    assert steps_saved(output) == [6, 8]


@pytest.mark.parametrize("is_beside", [True, False])
def test_a_run_stops_when_no_save_succeeds(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], is_beside: bool
) -> None:
    output = tmp_path / "output"
    output.mkdir()
    for step in (2, 3, 4, 5, 6):
        (output / f"checkpoint-{step}.writing").touch()
    config = config_in(
        shared, output, save_steps=1, max_steps=7, max_failed_saves=2, use_async_save=is_beside
    )
    assert run([str(config)]) == 1
    printed = capsys.readouterr()
    assert "failure 1 of at most 2 in a row" in printed.out
    assert "could not be saved 2 times in a row (max_failed_saves), so the run stops" in printed.err
    assert f"the newest checkpoint is {output / 'checkpoint-1'}" in printed.err
    assert steps_saved(output) == [1]


def test_the_last_step_is_tried_again_at_once(
    shared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "output"
    begin, ends = background.BackgroundSave.begin, iter([True])

    def begin_and_lose_the_writer(self: background.BackgroundSave, part: Any, sums: Any) -> None:
        begin(self, part, sums)
        if part.checkpoint.name == "checkpoint-8" and next(ends, False):
            assert self._process is not None
            self._process.end()

    monkeypatch.setattr(background.BackgroundSave, "begin", begin_and_lose_the_writer)
    assert run([str(config_in(shared, output))]) == 0
    text = capsys.readouterr().out
    assert "the process that writes checkpoints has ended with status -9" in text
    assert steps_saved(output) == [3, 6, 8]
    assert_whole(output / "checkpoint-8")


@pytest.mark.parametrize("policy", ["wait", "skip"])
def test_a_save_that_comes_while_another_is_written(
    shared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    policy: str,
) -> None:
    """The writer's answer is held back until the last step."""
    output = tmp_path / "output"
    if policy == "skip":
        is_busy = background.BackgroundSave.is_busy
        monkeypatch.setattr(
            background.BackgroundSave,
            "is_busy",
            property(lambda self: self.part is not None or is_busy.fget(self)),  # type: ignore[attr-defined]
        )
    config = config_in(shared, output, while_saving=policy, save_steps=2, save_total_limit=0)
    assert run([str(config)]) == 0
    text = capsys.readouterr().out
    assert steps_saved(output) == ([2, 8] if policy == "skip" else [2, 4, 6, 8])
    for step in (4, 6):
        skipped = f"Step {step} is not saved: the checkpoint before it is still being written"
        assert (skipped in text) == (policy == "skip")


def test_what_a_signal_saves_is_never_skipped(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "output"
    save = Saves.save

    def save_and_signal(self: Saves, step: int, *arguments: Any, **options: Any) -> None:
        save(self, step, *arguments, **options)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Saves, "save", save_and_signal)
    config = config_in(shared, output, while_saving="skip", save_steps=2)
    assert run([str(config)]) == 128 + signal.SIGTERM
    assert steps_saved(output) == [2, 3]


def test_the_limit_spares_milestones(shared: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    config = config_in(shared, output, save_steps=1, save_total_limit=2, keep_every=3)
    assert run([str(config)]) == 0
    assert steps_saved(output) == [3, 6, 7, 8]


def test_by_default_the_newest_three_are_kept(shared: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    assert run([str(config_in(shared, output, save_steps=1, use_async_save=None))]) == 0
    assert steps_saved(output) == [6, 7, 8]


def test_automatic_saves_begin_with_a_measured_one(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "output"
    config = config_in(
        shared,
        output,
        save_steps="auto",
        mean_time_between_failures=1e-9,
        max_steps=14,
        save_total_limit=0,
        use_async_save=False,
    )
    assert run([str(config)]) == 0
    text = capsys.readouterr().out
    assert text.count("minutes from here on: one costs") == 1
    # The clock, by which failures are 4 microseconds apart, has every step saved from there on.
    assert steps_saved(output) == [10, 12, 13, 14] or steps_saved(output) == [10, 11, 12, 13, 14]


def test_the_clock_makes_a_save_due(shared: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    config = config_in(
        shared, output, save_steps=1000, save_minutes=1e-6, max_steps=4, save_total_limit=0
    )
    assert run([str(config)]) == 0
    assert len(steps_saved(output)) > 1


@given(st.floats(1e-3, 1e3), st.floats(60, 1e6), st.floats(0.01, 100))
def test_no_interval_loses_less_time_than_the_best(
    cost: float, apart: float, factor: float
) -> None:
    def lost(interval: float) -> float:
        return cost / interval + interval / (2 * apart)

    best = best_interval(cost, apart)
    assert lost(best) <= lost(best * factor) * (1 + 1e-12)
    assert lost(best) == pytest.approx(math.sqrt(2 * cost / apart))


def test_no_writer_outlives_its_rank(shared: Path, tmp_path: Path) -> None:
    """Nothing may write on into the folder of a job that is over."""
    output = tmp_path / "output"
    config = config_in(shared, output, save_steps=1, max_steps=100_000)
    with Job(RUN_PRETRAIN, config, log_dir=tmp_path / "log") as job:
        wait_until(lambda: bool(steps_saved(output)), job)
        (writer,) = writers_of(job.process.pid)
        os.kill(job.process.pid, signal.SIGKILL)
        job.wait()
        wait_until(lambda: not Path(f"/proc/{writer}").exists(), job)
    newest = checkpoints_in(output)[-1]
    assert_whole(newest)
    config = config_in(shared, output, save_steps=1000, max_steps=step_of(newest) + 2)
    console = run_job(RUN_PRETRAIN, config, log_dir=tmp_path / "log2")
    assert f"resumes at step {step_of(newest)}" in console
    assert logged(output)[-1]["global_step"] == step_of(newest) + 2
    assert not list(output.glob("*.writing"))


def writers_of(process: int) -> list[int]:
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [
        int(child)
        for child in children
        if b"checkpoint.writer" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def wait_until(condition: Callable[[], bool], job: Job) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, job.output()
        time.sleep(0.05)
