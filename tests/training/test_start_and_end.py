"""Where a run begins and what it leaves at its end, as who types the command sees it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llm_pretrain.cli import main
from tests.launching import RUN_PRETRAIN, Job, logged, run_job
from tests.small_runs import small_config, write_config, write_data, write_model

SHARD = "optimizer/rank-00000.safetensors"
Train = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, data, and the output of eight steps with checkpoints after 3, 6 and the last."""
    folder = tmp_path_factory.mktemp("shared")
    write_data(folder / "data")
    write_model(folder / "model")
    assert main(["train", str(config_in(folder, folder / "whole"))]) == 0
    return folder


def config_in(shared: Path, output_dir: Path, **changes: Any) -> Path:
    values: dict[str, Any] = {
        "gradient_accumulation_steps": 1,
        "max_steps": 8,
        "decay_steps": 8,
        "save_strategy": "steps",
        "save_steps": 3,
        "do_eval": True,
        "eval_steps": 5,
        "eval_iters": 1,
    }
    config = small_config(shared / "model", shared / "data", output_dir, **values | changes)
    return write_config(output_dir.with_suffix(".json"), config)


@pytest.fixture
def run(shared: Path, tmp_path: Path) -> Path:
    """A copy of the finished run's folder."""
    shutil.copytree(shared / "whole", tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def train(shared: Path, run: Path, capfd: pytest.CaptureFixture[str]) -> Train:
    """Train in the copy with changed values; the exit status and what was printed."""

    def started(**changes: Any) -> tuple[int, str]:
        output_dir = changes.pop("output_dir", run)
        status = main(["train", str(config_in(shared, output_dir, **changes))])
        printed = capfd.readouterr()
        return status, printed.out + printed.err

    return started


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("checkpoint-*"))


def steps(folder: Path, run: int) -> dict[int, float]:
    return {line["global_step"]: line["loss"] for line in logged(folder) if line["run"] == run}


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 4096] = bytes(4096)
    path.write_bytes(data)


def test_the_last_step_is_saved_and_evaluated_whatever_the_intervals(shared: Path) -> None:
    whole = shared / "whole"
    assert names(whole) == ["checkpoint-3", "checkpoint-6", "checkpoint-8"]
    assert [line["global_step"] for line in logged(whole, "evaluation")] == [5, 8]


def test_a_save_says_its_size_and_seconds(shared: Path, train: Train, run: Path) -> None:
    saves = logged(run, "save")
    assert [line["global_step"] for line in saves] == [3, 6, 8]
    for line in saves:
        files = Path(line["checkpoint"]).rglob("*")
        size = sum(
            path.stat().st_size
            for path in files
            if path.is_file() and path.name != "checksums.json"
        )
        assert line["bytes"] == size
        assert line["seconds"] > 0
    _, printed = train(max_steps=9)
    assert re.search(r"Saved .*checkpoint-9: 2\.\d+ MB in \d+\.\d s\.", printed)


def test_the_summary_says_what_is_left_where_and_how_to_go_on(train: Train, run: Path) -> None:
    status, printed = train(max_steps=9, do_predict=True, test_iters=1)
    assert status == 0
    summary = printed[printed.index("steps_in_this_run") :]
    assert re.search(rf"final_model +{run}$", summary, re.MULTILINE)
    assert re.search(rf"last_checkpoint +{run}/checkpoint-9$", summary, re.MULTILINE)
    assert re.search(rf"best_checkpoint +{run}/checkpoint-9$", summary, re.MULTILINE)
    assert re.search(r"for_more_steps .*--max_steps 18$", summary, re.MULTILINE)
    assert printed.index("test_loss") < printed.index("steps_in_this_run")


def test_a_finished_run_is_done_and_can_be_made_longer(train: Train, run: Path) -> None:
    status, printed = train()
    assert status == 0
    assert "checkpoint-8 is at max_steps 8 already: training is done." in printed
    assert steps(run, 2) == {}
    status, printed = train(max_steps=10, decay_steps=10)
    assert status == 0
    assert "resumes at step 8" in printed
    assert list(steps(run, 3)) == [9, 10]


def test_a_checkpoint_beyond_the_end_is_said_and_nothing_is_touched(
    train: Train, run: Path
) -> None:
    before = contents(run)
    status, printed = train(max_steps=6)
    assert status == 0
    assert "checkpoint-8 is beyond max_steps 6" in printed
    assert "overwrite_output_dir" in printed
    assert contents(run) == before


def test_another_model_is_refused_with_each_difference(
    shared: Path, train: Train, run: Path, tmp_path: Path
) -> None:
    before = contents(run)
    other = write_model(tmp_path / "other", tie_word_embeddings=True, rms_norm_eps=1e-5)
    status, printed = train(model_name_or_path=str(other), num_hidden_layers=6, max_steps=10)
    assert status == 1
    for difference in (
        "num_hidden_layers: 4 → 6",
        "tie_word_embeddings: False → True",
        "rms_norm_eps: 1e-06 → 1e-05",
    ):
        assert difference in printed
    assert "checkpoint-8 is of another model" in printed
    assert "Traceback" not in printed
    assert contents(run) == before


def test_what_changed_is_a_line_and_an_entry(train: Train, run: Path) -> None:
    _, printed = train(max_steps=9, learning_rate=5e-4)
    assert "Changed since checkpoint-8: learning_rate: 0.001 → 0.0005" in printed
    record = json.loads((run / "run.json").read_text())
    first, second = record["starts"]
    assert (first["step"], first["changes"]) == (0, [])
    assert second["step"] == 8
    assert second["changes"] == ["max_steps: 8 → 9", "learning_rate: 0.001 → 0.0005"]
    assert record["configuration"]["learning_rate"] == {"value": 5e-4, "source": "run.json"}
    assert record["versions"].keys() >= {"python", "llm_pretrain", "numpy"}
    assert record["data"]["count"] == 2


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(
    shared: Path, train: Train, run: Path
) -> None:
    damage(run / "checkpoint-8" / SHARD)
    status, printed = train()
    assert status == 0
    assert f"checkpoint-8/{SHARD} is damaged" in printed
    assert f"Training resumes at step 6 from {run}/checkpoint-6 instead." in printed
    whole = steps(shared / "whole", 1)
    assert steps(run, 2) == {step: whole[step] for step in (7, 8)}
    assert names(run) == ["checkpoint-3", "checkpoint-6", "checkpoint-8", "checkpoint-8.damaged"]


@pytest.mark.parametrize(
    "file", [SHARD, "trainer_state.json", "model.safetensors", "checksums.json"]
)
def test_an_incomplete_checkpoint_is_named_and_the_one_before_it_taken(
    train: Train, run: Path, file: str
) -> None:
    (run / "checkpoint-8" / file).unlink()
    status, printed = train()
    assert status == 0
    assert f"checkpoint-8/{file} is missing: that checkpoint is passed over." in printed
    assert "resumes at step 6" in printed
    assert list(steps(run, 2)) == [7, 8]


def test_damaged_weights_start_no_other_run(
    train: Train, run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    damage(run / "checkpoint-8" / "model.safetensors")
    values = {"model_name_or_path": str(run / "checkpoint-8"), "continue_training": True}
    status, printed = train(**values, output_dir=tmp_path / "other")
    assert status == 1
    assert "checkpoint-8/model.safetensors is damaged" in printed
    words = ["convert", str(run / "checkpoint-8"), str(tmp_path / "half"), "--to", "huggingface"]
    assert main(words) == 1
    assert "checkpoint-8/model.safetensors is damaged" in capfd.readouterr().err
    assert not (tmp_path / "half").exists()


def test_the_last_step_is_evaluated_later_where_it_was_not(train: Train, run: Path) -> None:
    train(max_steps=9, do_eval=False)
    train(max_steps=9)
    assert [line["global_step"] for line in logged(run, "evaluation") if line["run"] > 1] == [9]
    train(max_steps=9)
    assert len([line for line in logged(run, "evaluation") if line["run"] > 1]) == 1


def test_a_damaged_checkpoint_that_is_named_is_an_error(train: Train, run: Path) -> None:
    damage(run / "checkpoint-8" / SHARD)
    damage(run / "checkpoint-6" / "model.safetensors")
    status, printed = train(resume_from_checkpoint=str(run / "checkpoint-8"))
    assert status == 1
    assert f"checkpoint-8/{SHARD} is damaged" in printed
    assert f"the newest whole one there is {run}/checkpoint-3" in printed
    assert "Traceback" not in printed


def test_nothing_but_damaged_checkpoints_is_an_error(train: Train, run: Path) -> None:
    for name in names(run):
        damage(run / name / SHARD)
    before = contents(run)
    status, printed = train(max_steps=10)
    assert status == 1
    assert "holds no whole checkpoint" in printed
    assert printed.count("is damaged") >= 3
    assert {name for name in contents(run) if "checkpoint" in name} == {
        name for name in before if "checkpoint" in name
    }


@pytest.mark.parametrize(("wanted", "first"), [(True, 9), ("true", 9), (False, 1), ("false", 1)])
def test_resuming_can_be_demanded_and_forbidden(
    train: Train, run: Path, wanted: bool | str, first: int
) -> None:
    status, printed = train(resume_from_checkpoint=wanted, max_steps=9)
    assert status == 0, printed
    assert next(iter(steps(run, 2))) == first
    assert ("checkpoint-8.abandoned" in names(run)) == (first == 1)


def test_resuming_from_nothing_is_an_error(train: Train, run: Path) -> None:
    for name in names(run):
        shutil.rmtree(run / name)
    status, printed = train(resume_from_checkpoint=True)
    assert status == 1
    assert "resume_from_checkpoint is true" in printed


def test_a_checkpoint_of_an_earlier_version_is_read(shared: Path, train: Train, run: Path) -> None:
    """Without checksums and origin, and with powers of beta in place of the number of steps."""
    shutil.rmtree(run / "checkpoint-8")
    checkpoint = run / "checkpoint-6"
    (checkpoint / "checksums.json").unlink()
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    del state["origin"]
    (checkpoint / "trainer_state.json").write_text(json.dumps(state))
    index = checkpoint / "optimizer" / "rank-00000.json"
    shard = json.loads(index.read_text())
    assert shard.pop("steps") == 6
    shard["powers"] = {"beta1_pow_acc": 0.9**7, "beta2_pow_acc": 0.999**7}
    index.write_text(json.dumps(shard))
    status, _ = train()
    assert status == 0
    whole = steps(shared / "whole", 1)
    assert steps(run, 2) == {step: whole[step] for step in (7, 8)}


def test_check_that_verifies_begins_where_the_run_would(
    shared: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(run / "checkpoint-8" / SHARD)
    config = config_in(shared, run, max_steps=9)
    assert main(["check", str(config), "--verify"]) == 1
    captured = capsys.readouterr()
    out = " ".join(captured.out.split())
    assert f"Weights: those of step 6 ({run}/checkpoint-6)" in out
    assert f"Training resumes at step 6 from {run}/checkpoint-6" in out
    assert captured.err.count(f"checkpoint-8/{SHARD} is damaged") == 1


def test_check_passes_over_an_incomplete_checkpoint_as_the_run_does(
    shared: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "checkpoint-8" / "trainer_state.json").unlink()
    config = config_in(shared, run, max_steps=9)
    assert main(["check", str(config)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "that checkpoint is passed over" in out
    assert f"Training resumes at step 6 from {run}/checkpoint-6" in out


def test_an_unknown_length_makes_no_other_model(
    shared: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_in(shared, run, max_steps=9)
    assert main(["check", str(config), "--max_seq_length", "ten"]) == 1
    assert "is of another model" not in capsys.readouterr().err


def test_check_says_before_the_run_what_the_run_would_say(
    shared: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_in(shared, run, max_steps=9, learning_rate=5e-4)
    assert main(["check", str(config), "--verify"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "Changed since then: learning_rate: 0.001 → 0.0005" in out
    assert f"{run}/checkpoint-8 is whole: " in out
    damage(run / "checkpoint-3" / SHARD)
    other = write_model(tmp_path / "other", num_hidden_layers=6)
    config = config_in(shared, run, max_steps=6, model_name_or_path=str(other))
    assert main(["check", str(config), "--verify"]) == 1
    captured = capsys.readouterr()
    assert "is beyond max_steps 6" in " ".join(captured.out.split())
    assert "num_hidden_layers: 4 → 6" in captured.err
    assert f"checkpoint-3/{SHARD} is damaged" in captured.err
    capsys.readouterr()
    only = config_in(shared, run, do_train=False, model_name_or_path=str(other))
    assert main(["check", str(only)]) == 1
    assert "num_hidden_layers: 4 → 6" in capsys.readouterr().err
    before = contents(run)
    assert main(["check", str(config)]) == 1
    assert "is damaged" not in capsys.readouterr().err, "contents are read on demand"
    assert contents(run) == before


def test_a_file_that_only_one_rank_reads_is_found_damaged_by_all(
    shared: Path, tmp_path: Path
) -> None:
    output_dir = tmp_path / "run"
    config = config_in(shared, output_dir, sharding="stage1", do_eval=False, max_steps=6)
    run_job(RUN_PRETRAIN, config, processes=2, log_dir=tmp_path / "log")
    damage(output_dir / "checkpoint-6" / "optimizer" / "rank-00001.safetensors")
    console = run_job(RUN_PRETRAIN, config, processes=2, log_dir=tmp_path / "log2")
    assert "checkpoint-6/optimizer/rank-00001.safetensors is damaged" in console
    assert list(steps(output_dir, 2)) == [4, 5, 6]
    damage(output_dir / "checkpoint-3" / "optimizer" / "rank-00001.safetensors")
    named = config_in(
        shared,
        output_dir,
        sharding="stage1",
        do_eval=False,
        resume_from_checkpoint=str(output_dir / "checkpoint-3"),
    )
    with Job(RUN_PRETRAIN, named, processes=2, log_dir=tmp_path / "log3") as job:
        assert job.wait() != 0
        assert f"the newest whole one there is {output_dir}/checkpoint-6" in job.output()
        assert "Traceback" not in job.output()
