"""A run whose rate decays from a checkpoint on: its rates, and the samples of the run before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llm_pretrain.cli import main
from tests.launching import RUN_PRETRAIN, logged, run_job
from tests.small_runs import small_config, write_config, write_data, write_model

LONG_STEPS, SAVED, SHORT_STEPS = 60, 4, 8


def losses(output_dir: Path) -> list[float]:
    return [line["loss"] for line in logged(output_dir)]


def test_a_decay_from_a_checkpoint_goes_on_with_the_samples_of_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_model(tmp_path / "model")
    # So few that the order of the long run, of several epochs, is not that of the short one.
    data = write_data(tmp_path / "data", documents=30)

    def train(name: str, **changes: Any) -> tuple[Path, str]:
        output_dir = tmp_path / name
        values: dict[str, Any] = {
            "lr_scheduler_type": "warmup_stable_decay",
            "warmup_steps": 2,
            "save_strategy": "steps",
            "save_steps": SAVED,
            **changes,
        }
        config = small_config(model, data, output_dir, **values)
        path = write_config(tmp_path / f"{name}.json", config)
        return output_dir, run_job(RUN_PRETRAIN, path, log_dir=tmp_path / f"log-{name}")

    # One that is at its constant rate to the end of the short ones.
    long, _ = train("long", max_steps=LONG_STEPS, save_steps=SAVED, save_total_limit=0)
    checkpoint = str(long / f"checkpoint-{SAVED}")
    branch, console = train(
        "branch", max_steps=SHORT_STEPS, decay_from=SAVED, resume_from_checkpoint=checkpoint
    )
    assert "another order" not in console
    rates = [line["learning_rate"] for line in logged(branch)]
    assert rates == pytest.approx([1e-3 - 0.9e-3 * part / 4 for part in (1, 2, 3, 4)])
    # The first step after the checkpoint has the weights and the samples of the long run.
    assert losses(branch)[0] == losses(long)[SAVED]
    assert losses(branch)[-1] != losses(long)[SHORT_STEPS - 1]

    same, _ = train(
        "same",
        max_steps=SHORT_STEPS,
        lr_scheduler_type="constant",
        resume_from_checkpoint=checkpoint,
    )
    assert losses(same) == losses(long)[SAVED:SHORT_STEPS]

    # A checkpoint beyond the begin of the decay had a rate that the decay would not have had.
    late = ["--decay_from", str(SAVED), "--max_steps", str(SHORT_STEPS + 1), "--output_dir"]
    begun = ["--resume_from_checkpoint", str(branch / f"checkpoint-{SHORT_STEPS}")]
    config = str(tmp_path / "long.json")
    assert main(["check", config, *late, str(tmp_path / "new"), *begun]) == 0
    assert main(["check", config, *late, str(long)]) == 1
    assert (
        f"decay_from: {long}/checkpoint-{LONG_STEPS} is beyond step {SAVED}"
        in capsys.readouterr().err.replace("\n  ", " ")
    )

    # And one within a decay has a rate that had fallen: allowed, and told.
    within = branch / f"checkpoint-{SHORT_STEPS}"
    words = ["--max_steps", "20", "--decay_from", "12", "--resume_from_checkpoint", str(within)]
    assert main(["check", config, *words, "--output_dir", str(tmp_path / "again")]) == 0
    said = f"decay_from: the rate of {within} had fallen to 0.0001 already and goes up to 0.001"
    assert said in capsys.readouterr().out.replace("\n    ", " ")
    again, console = train("again", max_steps=13, decay_from=12, resume_from_checkpoint=str(within))
    assert said in console
    assert [line["learning_rate"] for line in logged(again)][:1] == [1e-3]
