"""What runs do besides their steps goes on the emulated device as on a CPU."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from llm_pretrain.machine import environment_without_choices
from tests.emulated_device.compile_plugin import DEVICE
from tests.launching import PATIENCE_SECONDS, ROOT, RUN_PRETRAIN, Job, free_port, logged, run_job
from tests.parity.one_launch import launch, numbers
from tests.small_runs import small_config, write_config, write_data, write_model

FAULTY = ROOT / "tests" / "training" / "failing_rank.py"
EIGHT_SAMPLES = {"gradient_accumulation_steps": 4}
SHARDED = {"sharding": "stage2", "gradient_accumulation_steps": 2}
STEPS, SAVED = 4, 2
GENERATING = """
import sys
import paddle
from llm_pretrain.checkpoint.load import load_weights
from llm_pretrain.models.decoder import Decoder
from llm_pretrain.models.families import read_model_config
from llm_pretrain.models.generate import generate

directory, device = sys.argv[1:]
paddle.device.set_device(device)
model = read_model_config(directory)
decoder = Decoder(model)
load_weights(decoder, model, directory)
for temperature in (0, 1):
    print(generate(decoder, [3, 5, 7], 8, temperature=temperature))
"""
LAYOUTS: dict[str, dict[str, Any]] = {
    "same": SHARDED,
    "tp2": {"tensor_parallel_degree": 2, "sequence_parallel": True, **EIGHT_SAMPLES},
    "pp2": {"pipeline_parallel_degree": 2, **EIGHT_SAMPLES},
}
"""In which runs go on that a sharded one has saved."""

Environment = dict[str, str]


@pytest.fixture(scope="module")
def environment(device_environment: Environment) -> Environment:
    return {"OMP_NUM_THREADS": "1", **device_environment}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    write_data(folder / "data")
    write_model(folder / "model", num_hidden_layers=2, attention_dropout=0.1)
    return folder


@pytest.fixture(scope="module")
def runs(folder: Path, environment: Environment) -> dict[str, dict[str, Path]]:
    """By device, the output of a whole run and of those that go on from its checkpoint."""
    options = {
        "max_steps": STEPS,
        "save_strategy": "steps",
        "save_steps": SAVED,
        "do_eval": True,
        "eval_steps": SAVED,
        "eval_iters": 1,
        "do_predict": True,
        "test_iters": 1,
    }

    def resumed(device: str, layout: dict[str, Any]) -> dict[str, Any]:
        checkpoint = folder / device / "whole" / f"checkpoint-{SAVED}"
        return {**options, **layout, "resume_from_checkpoint": str(checkpoint)}

    found = {}
    for device in ("cpu", DEVICE):
        cases = {"whole": {**options, **SHARDED}}
        cases |= {name: resumed(device, layout) for name, layout in LAYOUTS.items()}
        cases["read-by-processes"] = {**options, **SHARDED, "dataloader_num_workers": 2}
        cases["evaluated"] = resumed(device, SHARDED) | {"do_train": False}
        if device == DEVICE:
            # What is copied from the device and written beside the training are the same files.
            cases["whole"]["use_async_save"] = True
            cases["from-the-cpu"] = resumed("cpu", SHARDED)
        found[device] = launch(
            folder,
            device,
            cases,
            2,
            device=device,
            environment=environment if device == DEVICE else {"OMP_NUM_THREADS": "1"},
        )
    return found


def test_a_run_of_every_kind_logs_what_the_cpus_does(runs: dict[str, dict[str, Path]]) -> None:
    """Steps, evaluations and the prediction, to the last bit."""
    expected = {name: numbers(output) for name, output in runs["cpu"].items()}
    actual = {name: numbers(output) for name, output in runs[DEVICE].items()}
    assert len(expected["whole"]) == 2 * STEPS + STEPS // SAVED + 1
    assert actual == {**expected, "from-the-cpu": expected["same"]}


def test_a_resumed_run_repeats_the_whole_one_bit_for_bit(runs: dict[str, dict[str, Path]]) -> None:
    for name in ("same", "from-the-cpu"):
        assert curve(runs[DEVICE][name]) == curve(runs[DEVICE]["whole"])[SAVED:]
    assert curve(runs[DEVICE]["read-by-processes"]) == curve(runs[DEVICE]["whole"])


def test_a_run_that_resumes_in_another_layout_goes_the_same_way(
    runs: dict[str, dict[str, Path]],
) -> None:
    for name in ("tp2", "pp2"):
        for found, expected in zip(
            curve(runs[DEVICE][name]), curve(runs[DEVICE]["whole"])[SAVED:], strict=True
        ):
            assert found == pytest.approx(expected, rel=1e-5)


def test_what_is_saved_is_the_cpus_byte_for_byte(runs: dict[str, dict[str, Path]]) -> None:
    """So each goes on from the other's checkpoints."""
    ours, theirs = (
        {
            path.relative_to(outputs["whole"]): path
            for path in outputs["whole"].rglob("*")
            if path.suffix == ".safetensors" or (path.is_file() and path.parent.name == "optimizer")
        }
        for outputs in (runs[DEVICE], runs["cpu"])
    )
    assert {path.parts[0] for path in ours} >= {"model.safetensors", "checkpoint-2", "checkpoint-4"}
    assert ours.keys() == theirs.keys()
    for name, path in ours.items():
        assert path.read_bytes() == theirs[name].read_bytes(), name


def curve(output: Path) -> list[tuple[int, float, float]]:
    return [(line["global_step"], line["loss"], line["global_norm"]) for line in logged(output)]


def command(words: list[str], environment: Environment, status: int = 0) -> tuple[str, str]:
    """What a lone Python prints, on both of its outputs."""
    done = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env={**environment_without_choices(), "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout, done.stderr


@pytest.mark.slow
def test_what_was_trained_there_continues_a_text_as_on_the_cpu(
    runs: dict[str, dict[str, Path]], environment: Environment
) -> None:
    model = str(runs[DEVICE]["whole"])
    on_device, on_cpu = (
        command(["-c", GENERATING, model, device], environment)[0] for device in (DEVICE, "cpu")
    )
    assert on_device.count("[") == 2
    assert on_device == on_cpu


@pytest.mark.slow
def test_what_was_trained_there_is_converted_and_back(
    runs: dict[str, dict[str, Path]], environment: Environment, tmp_path: Path
) -> None:
    for source in (runs[DEVICE]["whole"], runs[DEVICE]["whole"] / f"checkpoint-{SAVED}"):
        there, back = tmp_path / f"{source.name}-there", tmp_path / f"{source.name}-back"
        for words in ([source, there, "--to", "paddlenlp"], [there, back, "--to", "huggingface"]):
            command(["-m", "llm_pretrain", "convert", *map(str, words)], environment)
        expected, found = (load_file(path / "model.safetensors") for path in (source, back))
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values)


def config_of_a_run(folder: Path, output: Path, **options: Any) -> Path:
    """By the command that users give."""
    config = small_config(
        folder / "model",
        folder / "data",
        output,
        device=DEVICE,
        **{"max_steps": 8, "save_strategy": "steps", "save_steps": 100, **options},
    )
    return write_config(output.with_suffix(".json"), config)


def wait_for_a_step(output: Path, jobs: list[Job]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (output / "train_log.jsonl").exists() or not logged(output):
        assert time.monotonic() < deadline, jobs[0].output()
        assert all(job.process.poll() is None for job in jobs), jobs[0].output()
        time.sleep(0.05)


@pytest.mark.slow
def test_a_signal_saves_and_the_same_command_goes_on(
    folder: Path, environment: Environment, tmp_path: Path
) -> None:
    """One rank alone has it; all save, and what follows is the run that nobody stopped."""
    config = config_of_a_run(folder, tmp_path / "stopped", **SHARDED)
    words = {"processes": 2, "environment": environment}
    with Job(FAULTY, 1, "signal", config, log_dir=tmp_path / "log", **words) as job:
        assert job.wait() != 0
    assert [path.name for path in (tmp_path / "stopped").glob("checkpoint-*")] == ["checkpoint-3"]
    assert f"Saved {tmp_path}/stopped/checkpoint-3:" in job.console.read_text()
    run_job(RUN_PRETRAIN, config, log_dir=tmp_path / "log-again", **words)
    whole = config_of_a_run(folder, tmp_path / "whole", **SHARDED)
    run_job(RUN_PRETRAIN, whole, log_dir=tmp_path / "log-whole", **words)
    assert curve(tmp_path / "stopped") == curve(tmp_path / "whole")


@pytest.mark.slow
def test_a_signal_to_the_launcher_saves_and_ends_the_job(
    folder: Path, environment: Environment, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    # The launcher gives its processes 30 seconds.
    options = {"tensor_parallel_degree": 2, "gradient_accumulation_steps": 1}
    config = config_of_a_run(folder, output, max_steps=100_000, **options)
    words = {"processes": 2, "environment": environment}
    with Job(RUN_PRETRAIN, config, log_dir=tmp_path / "log", **words) as job:
        wait_for_a_step(output, [job])
        job.process.terminate()
        assert job.wait() != 0
    console, last = job.console.read_text(), curve(output)[-1][0]
    assert "SIGTERM received: the step" in console
    assert f"Saved {output}/checkpoint-{last}:" in console


@contextmanager
def lone_ranks(
    config: Path, environment: Environment, folder: Path, count: int = 2
) -> Iterator[list[Job]]:
    """Processes of a job without a launcher, which would end them itself."""
    first = free_port()
    endpoints = [f"127.0.0.1:{first + rank}" for rank in range(count)]
    with ExitStack() as stack:
        jobs = []
        for rank, endpoint in enumerate(endpoints):
            variables = {
                "PADDLE_TRAINER_ID": str(rank),
                "PADDLE_TRAINERS_NUM": str(count),
                "PADDLE_TRAINER_ENDPOINTS": ",".join(endpoints),
                "PADDLE_CURRENT_ENDPOINT": endpoint,
                "PADDLE_DISTRI_BACKEND": "xccl",
                f"FLAGS_selected_{DEVICE}s": str(rank),
            }
            words = {"log_dir": folder / f"rank-{rank}", "environment": environment | variables}
            jobs.append(stack.enter_context(Job(RUN_PRETRAIN, config, **words)))
        yield jobs


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["same", "pp2"])
def test_a_rank_that_is_lost_ends_the_other(
    layout: str, folder: Path, environment: Environment, tmp_path: Path
) -> None:
    """It waits in a collective that will not end, long before the device gives up."""
    output = tmp_path / "out"
    options = {"max_steps": 100_000, "distributed_timeout": 20, **LAYOUTS[layout]}
    config = config_of_a_run(folder, output, **options)
    patient = {**environment, "EMULATED_DEVICE_TIMEOUT_S": "10000"}
    with lone_ranks(config, patient, tmp_path) as jobs:
        wait_for_a_step(output, jobs)
        jobs[1].process.kill()
        assert jobs[0].wait(timeout=120) != 0
    assert "lost rank 1" in jobs[0].console.read_text()


@pytest.mark.slow
def test_a_killed_rank_ends_the_job(folder: Path, environment: Environment, tmp_path: Path) -> None:
    config = config_of_a_run(folder, tmp_path / "out", max_steps=10_000)
    words = {"processes": 2, "environment": environment}
    with Job(FAULTY, 1, "kill", config, log_dir=tmp_path / "log", **words) as job:
        assert job.wait() != 0
    console = job.console.read_text()
    assert "rank 1 status failed" in console
    assert "Rank 0 failed" not in console


@pytest.mark.slow
def test_a_gradient_that_is_not_finite_ends_the_run(
    folder: Path, environment: Environment, tmp_path: Path
) -> None:
    config = config_of_a_run(folder, tmp_path / "out", learning_rate=1e30, max_grad_norm=0.0)
    _, errors = command([str(RUN_PRETRAIN), str(config)], environment, status=1)
    assert "skip_data_intervals" in errors
    assert "Traceback" not in errors
    assert not list((tmp_path / "out").glob("checkpoint-*"))
