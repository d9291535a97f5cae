"""Sources that come, go and change weight: the same samples in every layout and over resumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llm_pretrain.cli import main
from llm_pretrain.config import DataArguments
from llm_pretrain.config.data_stages import samples_of_stages
from llm_pretrain.data import SampleCounts, build_datasets
from tests.launching import RUN_PRETRAIN, Job, events, logged, run_job
from tests.parity.grid import DP2, PP2, SD2, TP2, Layout
from tests.parity.one_launch import launch
from tests.small_runs import small_config, write_config, write_data, write_model

RECORDING = Path(__file__).parents[1] / "training" / "recording_samples.py"
LENGTH = 32
RAMP = [[0, 4], [LENGTH * 12, 8], [LENGTH * 36, 16]]
CONSUMED = [4, 8, 12, 20, 28, 36, 52, 68]
"""Samples after each step. The stages end after 17, within step 4, and after 40, within step 7."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model and two sources, of which one is read more than once."""
    write_data(tmp_path / "data" / "web", documents=60)
    write_data(tmp_path / "data" / "books", documents=8)
    write_model(tmp_path / "model")
    return tmp_path


def stages_in(folder: Path, last: str = "3 {books} 1 {web}") -> list[dict[str, Any]]:
    web, books = (f"{folder}/data/{name}/text" for name in ("web", "books"))
    return [
        {"until": 17 * LENGTH - 5, "blend": web},
        {"until": 40 * LENGTH, "blend": f"3 {web} 1 {books}"},
        {"blend": last.format(web=web, books=books)},
    ]


def options(folder: Path, layout: Layout, **changes: Any) -> dict[str, Any]:
    return {
        **layout.options,
        "input_dir": None,
        "data_stages": stages_in(folder),
        "split": "1,0,0",
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 8 // layout.batch_ranks,
        "batch_ramp": RAMP,
        "max_steps": len(CONSUMED),
        **changes,
    }


def expected(stages: list[dict[str, Any]], samples: int) -> list[list[Any]]:
    """Numbers and tokens of the samples, without a run."""
    data = DataArguments(data_stages=stages, split="1,0,0", max_seq_length=LENGTH)
    of_stages = samples_of_stages(data.data_stages or (), samples, LENGTH)
    counts = SampleCounts(train=samples, stages=of_stages)
    dataset = build_datasets(data, counts, seed=42, builder=True, vocab_size=None).train
    assert dataset is not None
    return [[number, dataset[number].inputs.tolist()] for number in range(samples)]


def test_samples_go_on_over_resumes_and_layouts_though_later_stages_change(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """One process until step 5, in stage 2, then two until the end, whose last stage is another."""
    recorded, out = folder / "recorded", folder / "out"
    recorded.mkdir()

    def run(name: str, stop_after: int, layout: Layout, **changes: Any) -> tuple[int | None, str]:
        """Status and output; the stop comes in a micro-step of rank 0, whose step is finished."""
        values = options(folder, layout, save_strategy="steps", save_steps=100, **changes)
        config = small_config(folder / "model", folder / "data", out, **values)
        path = write_config(folder / f"{name}.json", config)
        arguments, log = (recorded, stop_after, path), folder / f"log-{name}"
        with Job(RECORDING, *arguments, processes=layout.processes, log_dir=log) as job:
            return job.wait(), job.output()

    def taken() -> list[list[Any]]:
        return sorted(json.loads(line) for file in recorded.iterdir() for line in file.open())

    run("first", 11, Layout("one"))
    changed = stages_in(folder, last="{books}")
    assert taken() == expected(changed, 28)

    # What has been read can't become something else.
    rewritten = [{**changed[0], "until": 16 * LENGTH}, *changed[1:]]
    status, output = run("rewritten", 0, Layout("one"), data_stages=rewritten)
    web = changed[0]["blend"]
    message = (
        f'data_stages: 896 tokens have been read, with stage 1 as "{web}" until 539 tokens and not '
        f'as "{web}" until 512 tokens. Leave all up to there as it was'
    )
    assert (status, message in output) == (1, True)
    assert main(["check", str(folder / "rewritten.json")]) == 1
    assert message in " ".join(capfd.readouterr().err.split())

    status, output = run("second", 0, DP2, data_stages=changed)
    assert status == 0
    assert "Changed since checkpoint-5: data_stages: " in output
    assert "in another order" not in output
    assert taken() == expected(changed, CONSUMED[-1])
    begun = [(event["global_step"], event["message"]) for event in events(out, "data_stage")]
    blends = [stage["blend"] for stage in changed]
    assert begun == [
        (4, f"Stage 2 of the data has begun: {blends[1]}."),
        (7, f"Stage 3 of the data has begun: {blends[2]}."),
    ]
    assert [line["consumed_samples"] for line in logged(out)] == CONSUMED


def test_a_resume_within_a_stage_repeats_the_whole_run_bit_for_bit(folder: Path) -> None:
    whole, resumed = folder / "whole", folder / "resumed"
    values = options(folder, Layout("one"), save_strategy="steps", save_steps=5, do_eval=True)
    values |= {"split": "80,20,0", "eval_steps": 4, "evaluation_strategy": "steps"}

    def run(output: Path, **changes: Any) -> str:
        config = small_config(
            folder / "model", folder / "data", output, **values | {"eval_iters": 2, **changes}
        )
        path = write_config(output.with_suffix(".json"), config)
        return run_job(RUN_PRETRAIN, path, log_dir=folder / f"log-{output.name}")

    console = run(whole)
    assert "Stage 2, until 1,280 tokens: 23 samples: " in console
    resumed.mkdir()
    (whole / "checkpoint-5").rename(resumed / "checkpoint-5")
    assert "resumes at step 5" in run(resumed)
    for kind, begin in (("step", 5), ("evaluation", 1)):
        curves = [
            [
                [line.get(name) for name in ("global_step", "loss", "global_norm", "eval_loss")]
                for line in logged(output, kind)
            ]
            for output in (whole, resumed)
        ]
        assert curves[1] == curves[0][begin:]
        assert curves[1]


@pytest.mark.slow
def test_every_layout_takes_the_steps_of_one_process(folder: Path) -> None:
    one = launch(folder, "one", {"one": options(folder, Layout("one"))}, 1)["one"]
    cases = {layout.name: options(folder, layout) for layout in (DP2, SD2, PP2, TP2)}
    cases["one reads"] = options(folder, TP2, distributed_dataloader=True)
    for name, output in launch(folder, "two", cases, 2).items():
        assert [line["consumed_samples"] for line in logged(output)] == CONSUMED, name
        assert figures(output) == pytest.approx(figures(one), rel=1e-5), name


def figures(output: Path) -> list[float]:
    return [line[name] for line in logged(output) for name in ("loss", "global_norm")]
