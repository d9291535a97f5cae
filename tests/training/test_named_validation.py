"""Validation sets by name: each has the loss of its data alone, in any layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llm_pretrain.cli import main
from llm_pretrain.monitor.metrics_log import MetricsLog, read_metrics
from tests.launching import RUN_PRETRAIN, run_job
from tests.small_runs import small_config, write_config, write_data, write_model


def test_each_set_has_the_loss_of_its_data_alone(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    paths = {
        "few": str(write_data(tmp_path / "few", documents=40) / "text"),
        "many": str(write_data(tmp_path / "many", documents=400) / "text"),
    }

    def last(name: str, processes: int = 1, **changes: Any) -> tuple[dict[str, Any], str]:
        values = {
            "input_dir": paths["few"],
            "split": "1,0,0",
            "max_steps": 1,
            "learning_rate": 0,
            "min_learning_rate": 0,
            "do_eval": True,
            "per_device_eval_batch_size": 8 // processes,
            "eval_iters": 3,
            **changes,
        }
        config = small_config(model, Path(paths["few"]), tmp_path / name, **values)
        path = write_config(tmp_path / f"{name}.json", config)
        console = run_job(RUN_PRETRAIN, path, processes=processes, log_dir=tmp_path / f"log-{name}")
        lines = read_metrics(tmp_path / name)
        return next(line for line in lines if line["kind"] == "evaluation"), console

    named, console = last("named", eval_data=paths)
    for name, path in paths.items():
        alone, _ = last(name, do_train=False, input_dir=path, split="0,1,0")
        assert named[f"eval_{name}_loss"] == pytest.approx(alone["eval_loss"], rel=1e-6)
        assert named[f"eval_{name}_ppl"] == pytest.approx(alone["eval_ppl"], rel=1e-5)
    losses = [named["eval_few_loss"], named["eval_many_loss"]]
    assert losses[0] != losses[1]
    assert named["eval_loss"] == pytest.approx(sum(losses) / 2)
    assert named["eval_samples"] == 48
    assert f"eval_many_loss: {losses[1]:.7}" in console
    summary = next(x for x in read_metrics(tmp_path / "named") if x["kind"] == "summary")
    assert summary["eval_few_loss"] == losses[0]

    # One rank of the two reads for both; the set comes from it, by name.
    shared, _ = last(
        "shared",
        processes=2,
        eval_data=paths,
        tensor_parallel_degree=2,
        distributed_dataloader=True,
        per_device_eval_batch_size=8,
    )
    for key in ("eval_loss", "eval_few_loss", "eval_many_loss"):
        assert shared[key] == pytest.approx(named[key], rel=1e-6)


def test_the_page_of_the_run_has_a_curve_of_each_set(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "run")
    for step in (10, 20):
        log.write("step", {"global_step": step, "loss": 4.0, "consumed_samples": step})
        losses = {"eval_loss": 3.5, "eval_web_loss": 3.0, "eval_code-py_loss": 4.0 - step / 100}
        log.write("evaluation", {"global_step": step, **losses})
    log.close()
    page = tmp_path / "run.html"
    assert main(["report", str(tmp_path / "run"), "-o", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert 'class="key c1 dots">web<' in text
    assert 'class="key c2 dots">code-py<' in text
    assert "code-py 3.8" in text
