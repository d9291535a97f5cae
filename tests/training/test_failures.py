"""A rank that dies takes the job down at once, with its own error on the console."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from llm_pretrain.checkpoint.directory import checkpoints_in
from tests.launching import RUN_PRETRAIN, Job, events, logged, run_job
from tests.small_runs import small_config, write_config, write_data, write_model

FAULTY = Path(__file__).with_name("failing_rank.py")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("failures")
    contents = small_config(
        write_model(folder / "model"), write_data(folder / "data"), folder / "out", max_steps=10_000
    )
    return write_config(folder / "config.json", contents)


@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_on_one_rank_is_what_the_console_shows(
    config: Path, tmp_path: Path, rank: int
) -> None:
    events = tmp_path / "events"
    told = ("--alert_command", f"tee -a {events}")
    with Job(FAULTY, rank, "raise", config, *told, processes=2, log_dir=tmp_path / "log") as job:
        assert job.wait() != 0
    console = job.console.read_text()
    assert "ArithmeticError: the planted fault" in console
    assert f"Rank {rank} failed" in console
    assert f"Rank {1 - rank} failed" not in console, "a neighbour's error, as after a time-out"
    (event,) = map(json.loads, events.read_text().splitlines())
    assert event["event"] == "failure"
    assert event["message"].startswith(f"Rank {rank} failed")
    assert "ArithmeticError: the planted fault" in event["message"]
    assert event["global_step"] == 2


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_ends_the_job_and_is_told_by_who_is_left(
    config: Path, tmp_path: Path, rank: int
) -> None:
    events = tmp_path / "events"
    told = ("--alert_command", f"tee -a {events}")
    with Job(FAULTY, rank, "kill", config, *told, processes=2, log_dir=tmp_path / "log") as job:
        assert job.wait() != 0
    deadline = time.monotonic() + 30
    while not (events.exists() and events.read_text()):
        assert time.monotonic() < deadline, job.output()
        time.sleep(0.1)
    (event,) = map(json.loads, events.read_text().splitlines())
    assert event["event"] == "failure"
    assert f"rank {rank}" in event["message"].lower()
    console = job.console.read_text()
    assert f"rank {rank} status failed" in console
    assert f"Rank {1 - rank} failed" not in console, "a neighbour's error, as after a time-out"


@pytest.mark.parametrize(
    ("fault", "seen", "timeout"),
    [
        ("stop", "whose process is stopped", 15),
        ("loop", "which waits for no other", 15),
        ("read", "which waits for no other", 15),
        # Gloo gives up after 30 s.
        pytest.param("stop over Gloo", "whose process is stopped", 300, marks=pytest.mark.slow),
    ],
)
def test_a_rank_that_stands_still_is_named(
    fault: str, seen: str, timeout: int, config: Path, tmp_path: Path
) -> None:
    """Its process lives, and so does its watch."""
    output = tmp_path / "out"
    options = ("--distributed_timeout", timeout, "--output_dir", output)
    began = time.monotonic()
    with Job(FAULTY, 1, fault, config, *options, processes=2, log_dir=tmp_path / "log") as job:
        assert job.wait() != 0
        took = time.monotonic() - began
    console = job.output()
    assert re.search(rf"error: the job stands still: rank 1 on \S+, {seen}", console)
    assert "in step 3" in console
    assert "The others wait at: " in console
    assert "Traceback" not in console
    stacks = {path.name: path.read_text() for path in (output / "stacks").iterdir()}
    assert "faulty_reduction" in stacks["rank-1.txt"]
    # Whom Gloo has told is past its collective when it asks who stands still.
    assert ("collectives.py" if timeout < 30 else "stuck_peers") in stacks["rank-0.txt"]
    assert took < 300


def test_a_slow_rank_is_named(config: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    options = ("--max_steps", 8, "--straggler_steps", 4, "--output_dir", output)
    run_job(FAULTY, 1, "slow", config, *options, processes=2, log_dir=tmp_path / "log")
    (warning,) = events(output, "straggler")
    assert warning["rank"] == 1
    assert warning["seconds"] > 1.5 * warning["median_seconds"]
    last = logged(output)[-1]
    assert last["slowest_rank"] == 1
    assert last["slowest_rank_seconds"] > last["median_rank_seconds"]
    assert last["waiting_share"] > 0.3


def test_a_gradient_that_is_not_finite_ends_the_run_and_says_what_to_do(tmp_path: Path) -> None:
    contents = small_config(
        write_model(tmp_path / "model"),
        write_data(tmp_path / "data"),
        tmp_path / "out",
        learning_rate=1e30,
        max_grad_norm=0.0,
        alert_command=f"tee -a {tmp_path / 'events'}",
    )
    config = write_config(tmp_path / "config.json", contents)
    with Job(Path("run_pretrain.py"), config, log_dir=tmp_path / "log") as job:
        assert job.wait() == 1
    assert "skip_data_intervals" in job.output()
    (event,) = map(json.loads, (tmp_path / "events").read_text().splitlines())
    assert event["event"] == "failure"
    assert event["message"].startswith("error: Not finite at step 2: ")
    assert not list((tmp_path / "out").glob("checkpoint-*"))


def test_float16_that_overflows_for_ever_ends_in_an_error(tmp_path: Path) -> None:
    contents = small_config(
        write_model(tmp_path / "model"),
        write_data(tmp_path / "data"),
        tmp_path / "out",
        max_steps=40,
        gradient_accumulation_steps=1,
        learning_rate=1e30,
        max_grad_norm=0.0,
        fp16=True,
        scale_loss=4.0,
        logging_steps=2,
    )
    config = write_config(tmp_path / "config.json", contents)
    with Job(Path("run_pretrain.py"), config, log_dir=tmp_path / "log") as job:
        assert job.wait() == 1
    output = job.output()
    for step, scale in ((2, 2), (3, 1)):
        skip = rf"Step {step} skipped: .* loss scale now {scale}, {step - 1} skipped so far\."
        assert re.search(skip, output), "told at once, logged or not"
    assert "global_step: 2, " in output
    assert "loss_scale: 2.0, skipped_steps: 1, " in output
    assert "lower learning_rate" in output


@pytest.mark.parametrize("processes", [1, 2])
def test_a_file_that_can_not_be_written_is_a_sentence_and_spares_the_last_checkpoint(
    tmp_path: Path, processes: int
) -> None:
    output = tmp_path / "out"
    contents = small_config(
        write_model(tmp_path / "model"),
        write_data(tmp_path / "data"),
        output,
        max_steps=1,
        save_strategy="steps",
        save_steps=1,
    )
    config = write_config(tmp_path / "config.json", contents)
    run_job(RUN_PRETRAIN, config, log_dir=tmp_path / "log")
    before = contents_of(output / "checkpoint-1")
    final = contents_of(output)
    # In KiB: there is room for the weights, and not for the optimizer's state.
    limit = ("bash", "-c", 'ulimit -f 1000; exec "$@"', "bash")
    words = (RUN_PRETRAIN, config, "--max_steps", 3)
    with Job(*words, processes=processes, log_dir=tmp_path / "log2", prefix=limit) as job:
        assert job.wait(60) == 1
    console = job.console.read_text()
    assert "Traceback" not in console
    (line,) = {line for line in console.splitlines() if line.startswith("error: ")}
    assert "could not be saved 3 times in a row" in line
    assert f"the newest checkpoint is {output}/checkpoint-1" in line
    assert f"{output}/checkpoint-3" in line
    assert "File too large; `ulimit -f`" in line
    assert f"{output}/checkpoint-2" in console, "the first that failed was said, too"
    assert checkpoints_in(output) == [output / "checkpoint-1"]
    assert contents_of(output / "checkpoint-1") == before
    assert contents_of(output) == final


def contents_of(folder: Path) -> dict[str, bytes]:
    """The files of a folder that a run writes once."""
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.is_file() and path.name not in (".lock", "run.json", "train_log.jsonl")
    }
