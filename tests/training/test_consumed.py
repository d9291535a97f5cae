"""Resumed with other batches or ranks, a run goes on at the very next sample."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.launching import Job
from tests.small_runs import small_config, write_config, write_data, write_model

SCRIPT = Path(__file__).with_name("recording_samples.py")


def samples(folder: Path) -> list[tuple[int, tuple[int, ...]]]:
    """Number and tokens of every sample that any rank trained on."""
    lines = [line for path in folder.glob("*.jsonl") for line in path.read_text().splitlines()]
    return sorted((number, tuple(tokens)) for number, tokens in map(json.loads, lines))


def test_no_sample_is_repeated_or_lost(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    data = write_data(tmp_path / "data")
    recorded = tmp_path / "recorded"
    recorded.mkdir()
    # Ranks, batch size, accumulation, micro-steps until the stop, samples consumed by then.
    phases = [(1, 4, 1, 3, 12), (2, 1, 3, 7, 30), (1, 3, 2, 0, 48)]
    for number, (ranks, batch_size, accumulation, stop_after, consumed) in enumerate(phases):
        changes: dict[str, Any] = {
            "per_device_train_batch_size": batch_size,
            "gradient_accumulation_steps": accumulation,
            # The last step of the last phase.
            "max_steps": 9,
            "save_strategy": "steps",
            "save_steps": 9,
        }
        config = small_config(model, data, tmp_path / "out", **changes)
        path = write_config(tmp_path / f"{number}.json", config)
        with Job(
            SCRIPT, recorded, stop_after, path, processes=ranks, log_dir=tmp_path / f"log{number}"
        ) as job:
            job.wait()
            output = job.output()
        assert ("resumes at step" in output) == (number > 0), output
        assert [sample for sample, _ in samples(recorded)] == list(range(consumed)), output
    contents = {tokens for _, tokens in samples(recorded)}
    # The numbers stand for the same order in all phases: no text comes twice.
    assert len(contents) == 48
