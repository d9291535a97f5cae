"""Stop anywhere, resume, and the losses are those of the run that never stopped."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from llm_pretrain.cli import main
from tests.launching import PATIENCE_SECONDS, RUN_PRETRAIN, Job, logged, run_job
from tests.small_runs import small_config, write_config, write_data, write_model

FAULTY = Path(__file__).with_name("failing_rank.py")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    write_data(folder / "data")
    write_model(folder / "model", attention_dropout=0.1)
    return folder


def config_in(shared: Path, output_dir: Path, **changes: Any) -> Path:
    config = small_config(
        shared / "model",
        shared / "data",
        output_dir,
        **{"max_steps": 8, "save_strategy": "steps", "save_steps": 3} | changes,
    )
    return write_config(output_dir.with_suffix(".json"), config)


def curve(output_dir: Path) -> list[tuple[int, float, float]]:
    return [(line["global_step"], line["loss"], line["global_norm"]) for line in logged(output_dir)]


PRECISIONS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16-O2": {"bf16": True, "fp16_opt_level": "O2", "amp_master_grad": True},
    "bf16-O2-without-master-gradients": {"bf16": True, "fp16_opt_level": "O2"},
    "bf16-O1": {"bf16": True, "fp16_opt_level": "O1"},
    "fp16-O2": {"fp16": True, "fp16_opt_level": "O2", "scale_loss": 2.0**30},
}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_resumed_run_repeats_the_whole_one_bit_for_bit(
    shared: Path, tmp_path: Path, precision: str
) -> None:
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    run_job(
        RUN_PRETRAIN, config_in(shared, whole, **PRECISIONS[precision]), log_dir=tmp_path / "log"
    )
    resumed.mkdir()
    (whole / "checkpoint-3").rename(resumed / "checkpoint-3")
    console = run_job(
        RUN_PRETRAIN, config_in(shared, resumed, **PRECISIONS[precision]), log_dir=tmp_path / "log2"
    )
    assert "resumes at step 3" in console
    assert curve(resumed) == curve(whole)[3:]
    assert len(curve(resumed)) == 5
    for name in ("loss_scale", "skipped_steps"):
        of_whole, of_resumed = ([line.get(name) for line in logged(o)] for o in (whole, resumed))
        assert of_resumed == of_whole[3:]
        assert (of_whole[-1] is not None) == precision.startswith("fp16")


def test_resumes_in_another_layout(shared: Path, tmp_path: Path) -> None:
    """Saved by tensor 2 × sharding 2, resumed by one process and by pipeline 2."""
    config = config_in(
        shared,
        tmp_path / "wide",
        gradient_accumulation_steps=4,
        tensor_parallel_degree=2,
        sharding="stage1",
        fuse_attention_qkv=True,
        model_name_or_path=str(write_model(tmp_path / "model")),
    )
    run_job(RUN_PRETRAIN, config, processes=4, log_dir=tmp_path / "log")
    expected = curve(tmp_path / "wide")[3:]
    for name, processes, options in (("one", 1, {}), ("pp2", 2, {"pipeline_parallel_degree": 2})):
        output_dir = tmp_path / name
        config = config_in(
            shared,
            output_dir,
            model_name_or_path=str(tmp_path / "model"),
            resume_from_checkpoint=str(tmp_path / "wide" / "checkpoint-3"),
            **options,
        )
        run_job(RUN_PRETRAIN, config, processes=processes, log_dir=tmp_path / f"log-{name}")
        found = curve(output_dir)
        assert [step for step, *_ in found] == [4, 5, 6, 7, 8]
        for (_, loss, norm), (_, wanted_loss, wanted_norm) in zip(found, expected, strict=True):
            assert loss == pytest.approx(wanted_loss, rel=1e-5)
            assert norm == pytest.approx(wanted_norm, rel=1e-5)


def assert_said_in_order(console: Path, name: str, saved: str) -> None:
    text = console.read_text()
    places = [text.find(f"{name} received: the step"), text.find(saved), text.find("to_go_on")]
    assert -1 not in places, text
    assert places == sorted(places), text
    assert text.count("received: the step") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_ends_the_run(
    shared: Path, tmp_path: Path, number: signal.Signals
) -> None:
    output_dir = tmp_path / "out"
    config = config_in(shared, output_dir, max_steps=100_000, save_steps=100_000)
    with Job(RUN_PRETRAIN, config, log_dir=tmp_path / "log") as job:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (output_dir / "train_log.jsonl").exists() or not curve(output_dir):
            assert time.monotonic() < deadline, job.output()
            assert job.process.poll() is None, job.output()
            time.sleep(0.05)
        os.kill(job.process.pid, number)
        assert job.wait() == 128 + number
    last = curve(output_dir)[-1][0]
    assert_said_in_order(job.console, number.name, f"Saved {output_dir}/checkpoint-{last}:")
    assert (output_dir / f"checkpoint-{last}" / "trainer_state.json").is_file()


def test_an_interrupt_while_paddle_is_imported_ends_the_run(shared: Path, tmp_path: Path) -> None:
    config = config_in(shared, tmp_path / "out", max_steps=100_000, save_steps=100_000)
    with Job(RUN_PRETRAIN, config, log_dir=tmp_path / "log") as job:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while "libpaddle" not in Path(f"/proc/{job.process.pid}/maps").read_text():
            assert time.monotonic() < deadline, job.output()
            time.sleep(0.01)
        os.kill(job.process.pid, signal.SIGINT)
        assert job.wait() == 128 + signal.SIGINT
    assert "Traceback" not in job.output()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_launcher_saves_and_ends_the_job(
    shared: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """It reaches every rank, several times over."""
    output_dir = tmp_path / "out"
    config = config_in(shared, output_dir, max_steps=100_000, save_steps=100_000)
    with Job(RUN_PRETRAIN, config, processes=2, log_dir=tmp_path / "log") as job:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (output_dir / "train_log.jsonl").exists() or not curve(output_dir):
            assert time.monotonic() < deadline, job.output()
            time.sleep(0.05)
        os.kill(job.process.pid, number)
        assert job.wait() != 0
    last = curve(output_dir)[-1][0]
    # The launcher reaches its ranks by SIGTERM.
    assert_said_in_order(job.console, "SIGTERM", f"Saved {output_dir}/checkpoint-{last}:")
    assert [path.name for path in output_dir.glob("checkpoint-*")] == [f"checkpoint-{last}"]


def test_an_output_directory_that_cannot_be_made_is_refused_at_once(
    shared: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    contents = small_config(shared / "model", shared / "data", tmp_path / "file" / "out")
    config = write_config(tmp_path / "config.json", contents)
    with Job(RUN_PRETRAIN, config, log_dir=tmp_path / "log") as job:
        assert job.wait() == 1
        assert "output_dir" in job.output()
        assert "Traceback" not in job.output()


def test_a_signal_to_one_rank_saves_one_checkpoint_of_all(shared: Path, tmp_path: Path) -> None:
    output_dir = tmp_path / "out"
    config = config_in(
        shared, output_dir, sharding="stage1", gradient_accumulation_steps=4, save_steps=100
    )
    with Job(FAULTY, 1, "signal", config, processes=2, log_dir=tmp_path / "log") as job:
        assert job.wait() != 0
    assert [path.name for path in output_dir.glob("checkpoint-*")] == ["checkpoint-3"]
    run_job(
        RUN_PRETRAIN,
        config_in(shared, tmp_path / "whole", sharding="stage1", gradient_accumulation_steps=4),
        processes=2,
        log_dir=tmp_path / "log2",
    )
    run_job(RUN_PRETRAIN, config, processes=2, log_dir=tmp_path / "log3")
    assert curve(output_dir) == curve(tmp_path / "whole")


def test_an_interrupted_save_is_not_taken_for_a_whole_one(shared: Path, tmp_path: Path) -> None:
    output_dir = tmp_path / "out"
    run_job(RUN_PRETRAIN, config_in(shared, output_dir, max_steps=6), log_dir=tmp_path / "log")
    # What a run leaves that is killed while it writes: everything but the last rename.
    (output_dir / "checkpoint-6").rename(output_dir / "checkpoint-5.writing")
    console = run_job(RUN_PRETRAIN, config_in(shared, output_dir), log_dir=tmp_path / "log2")
    assert "resumes at step 3" in console
    assert not (output_dir / "checkpoint-5.writing").exists(), "the remains were cleared away"
    assert (output_dir / "checkpoint-6").is_dir()


def test_only_the_newest_checkpoints_are_kept(shared: Path, tmp_path: Path) -> None:
    output_dir = tmp_path / "out"
    config = config_in(shared, output_dir, save_steps=2, save_total_limit=2)
    run_job(RUN_PRETRAIN, config, log_dir=tmp_path / "log")
    names = sorted(path.name for path in output_dir.glob("checkpoint-*"))
    assert names == ["checkpoint-6", "checkpoint-8"]


def test_overwrite_output_dir_starts_anew(shared: Path, tmp_path: Path) -> None:
    output_dir = tmp_path / "out"
    run_job(RUN_PRETRAIN, config_in(shared, output_dir), log_dir=tmp_path / "log")
    console = run_job(
        RUN_PRETRAIN,
        config_in(shared, output_dir, overwrite_output_dir=True),
        log_dir=tmp_path / "log2",
    )
    assert "starts at step 0: overwrite_output_dir is set" in console
    names = sorted(path.name for path in output_dir.glob("checkpoint-*"))
    assert names == [
        "checkpoint-3",
        "checkpoint-3.abandoned",
        "checkpoint-6",
        "checkpoint-6.abandoned",
        "checkpoint-8",
        "checkpoint-8.abandoned",
    ]


def test_passed_over_steps_take_their_data_with_them(shared: Path, tmp_path: Path) -> None:
    output_dir = tmp_path / "out"
    config = config_in(shared, output_dir, skip_data_intervals=[[3, 4]])
    console = run_job(RUN_PRETRAIN, config, log_dir=tmp_path / "log")
    assert "Step 3: its data is passed over" in console
    assert [step for step, *_ in curve(output_dir)] == [1, 2, 5, 6, 7, 8]
    assert logged(output_dir)[-1]["consumed_samples"] == 8 * 16


def test_a_checkpoint_of_paddlenlp_is_refused(shared: Path, tmp_path: Path) -> None:
    output_dir = tmp_path / "out"
    (output_dir / "checkpoint-100").mkdir(parents=True)
    (output_dir / "checkpoint-100" / "trainer_state.json").write_text('{"global_step": 100}')
    with Job(RUN_PRETRAIN, config_in(shared, output_dir), log_dir=tmp_path / "log") as job:
        assert job.wait() == 1
        assert "written by another program" in job.output()
        assert "Traceback" not in job.output()


def test_a_smaller_batch_than_before_is_refused_where_the_data_would_end(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output_dir = tmp_path / "out"
    # 640 samples; 400 steps of 2 samples are fewer than those and the 360 steps that are left.
    first = config_in(shared, output_dir, max_steps=40, save_steps=40)
    run_job(RUN_PRETRAIN, first, log_dir=tmp_path / "log")
    config = config_in(shared, output_dir, max_steps=400, gradient_accumulation_steps=1)
    with Job(RUN_PRETRAIN, config, log_dir=tmp_path / "log2") as job:
        assert job.wait() == 1
        assert "the run began with a larger batch" in job.output()
    assert main(["check", str(config)]) == 1
    assert "the run began with a larger batch" in capsys.readouterr().err


def test_the_best_saved_step_becomes_the_final_model(shared: Path, tmp_path: Path) -> None:
    output_dir = tmp_path / "out"
    config = config_in(
        shared,
        output_dir,
        # Far too high a rate after the first steps: the loss falls, then rises.
        learning_rate=10.0,
        warmup_steps=40,
        max_steps=8,
        do_eval=True,
        eval_steps=2,
        eval_iters=2,
        save_steps=2,
        save_total_limit=1,
        load_best_model_at_end=True,
    )
    console = run_job(RUN_PRETRAIN, config, log_dir=tmp_path / "log")
    losses = {line["global_step"]: line["eval_loss"] for line in logged(output_dir, "evaluation")}
    best = min(losses, key=lambda step: losses[step])
    assert best < 8, "the last step should not be the best here"
    assert f"The final model is that of step {best}" in console
    kept = {path.name for path in output_dir.glob("checkpoint-*")}
    assert kept == {f"checkpoint-{best}", "checkpoint-8"}
    final = (output_dir / "model.safetensors").read_bytes()
    assert final == (output_dir / f"checkpoint-{best}" / "model.safetensors").read_bytes()


def test_a_signal_during_an_evaluation_ends_the_run(shared: Path, tmp_path: Path) -> None:
    output_dir = tmp_path / "out"
    config = config_in(
        shared,
        output_dir,
        do_eval=True,
        eval_steps=2,
        eval_iters=1_000_000,
        dataloader_num_workers=1,
    )
    with Job(RUN_PRETRAIN, config, log_dir=tmp_path / "log") as job:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (output_dir / "train_log.jsonl").exists() or len(curve(output_dir)) < 2:
            assert time.monotonic() < deadline, job.output()
            time.sleep(0.05)
        time.sleep(1.0)
        os.kill(job.process.pid, signal.SIGTERM)
        assert job.wait() == 128 + signal.SIGTERM
    assert "broken off by a signal" in job.console.read_text()
    assert (output_dir / "checkpoint-2").is_dir()
    assert not logged(output_dir, "evaluation"), "a part of an evaluation is not reported as one"
