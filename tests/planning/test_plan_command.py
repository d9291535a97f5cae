"""`llm-pretrain plan` as a person uses it: what it prints, writes and refuses."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from llm_pretrain.config import examine
from llm_pretrain.machine.language import VARIABLE
from llm_pretrain.machine.terminal import columns_of
from llm_pretrain.planning.machines import load_machine, read_machine

ROOT = Path(__file__).parents[2]
MODEL = ("--model_name_or_path", "meta-llama/Llama-2-7b", "--num_hidden_layers", "4")
CONFIG = ("configs/llama/tiny.json", *MODEL, "--max_seq_length", "1024")
# The smallest space that has layouts of several kinds.
TWO = ("--gpus", "2", "--gpu", "a100-80g")


def llm_pretrain(
    *words: str, columns: int = 80, language: str = "en"
) -> subprocess.CompletedProcess[str]:
    """In a process of its own, which has no Paddle."""
    own = {"COLUMNS": str(columns), "PYTHONPATH": str(ROOT), VARIABLE: language}
    environment = {**os.environ, **own}
    return subprocess.run(
        [sys.executable, "-m", "llm_pretrain", *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder with what a plan wrote, and what it printed."""
    folder = tmp_path_factory.mktemp("plan")
    files = ("--write", str(folder / "best.json"), "--svg", str(folder / "best.svg"))
    done = llm_pretrain("plan", *CONFIG, *TWO, *files)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_the_best_five_and_ones_own_are_shown_in_80_columns(planned: tuple[Path, str]) -> None:
    printed = planned[1]
    assert max(map(len, printed.splitlines())) <= 80
    assert "THE BEST of " in printed
    assert printed.count("memory of the fullest rank") in (5, 6)
    answers, _, numbers = printed.partition("NUMBERS OF THE MACHINE")
    assert "YOUR LAYOUT" in answers
    assert "memory_bandwidth 2.039e+12: NVIDIA A100 data sheet" in " ".join(numbers.split())
    for part in (
        "max_memory_reserved",
        "weights",
        "masters and moments",
        "products of matrices",
        "a checkpoint takes",
    ):
        assert printed.count(part) >= 5
    assert "YOUR LAYOUT\n  yours, " in printed


def test_the_same_in_chinese(planned: tuple[Path, str]) -> None:
    printed = llm_pretrain("plan", *CONFIG, *TWO, language="zh").stdout
    answers = printed.partition("机器的各个数，及其来源\n")[0]
    lines = answers.splitlines()
    assert max(map(columns_of, lines)) <= 80
    # Figures are those of the other language, bars are not: their titles are of another width.
    rows = [re.findall(r"\d[\d.,]*%?", line) for line in lines if "%" in line]
    of_english = planned[1].partition("NUMBERS OF THE MACHINE")[0].splitlines()
    assert rows == [re.findall(r"\d[\d.,]*%?", line) for line in of_english if "%" in line]
    heads = next(line for line in lines if "设备小时" in line)
    assert heads.split() == ["token/秒/设备", "MFU", "时间", "设备小时", "每设备", "GiB"]
    assert {columns_of(line) for line in lines if "%" in line} >= {columns_of(heads)}
    bars = [line for line in lines if "█" in line or "▏" in line]
    first = bars[: next(n for n, line in enumerate(bars) if "矩阵乘" in line)]
    assert len({columns_of(re.split("[█▏]", line)[0]) for line in first}) == 1
    ours = [line.partition("×")[0] for line in lines]
    for word in ("memory", "recompute", "weights", "hours", "attention", "YOUR", "batch", "node"):
        assert not any(word in line for line in ours if "max_memory" not in line)


def test_what_is_written_has_the_best_layout(planned: tuple[Path, str]) -> None:
    folder, printed = planned
    run, _ = examine(folder / "best.json")
    assert run is not None
    given, _ = examine(CONFIG[0], CONFIG[1:])
    assert given is not None
    assert run.model == given.model
    assert run.training.max_steps == given.training.max_steps
    written = json.loads((folder / "best.json").read_text())
    assert "alerts" not in written
    batch = (
        f"batch {run.training.per_device_train_batch_size} × "
        f"{run.training.gradient_accumulation_steps}"
    )
    assert batch in printed.partition("THE BEST of ")[2].splitlines()[2]
    checked = llm_pretrain("check", str(folder / "best.json"), "--world_size", "2")
    # The data of the example is not there before its first run; the layout has no problem.
    problems = [line for line in checked.stderr.splitlines() if line.startswith("error: ")]
    assert [problem for problem in problems if "input_dir" not in problem] == []


def test_the_picture_has_a_bar_of_every_plan(planned: tuple[Path, str]) -> None:
    root = ElementTree.parse(planned[0] / "best.svg").getroot()
    texts = [text.text or "" for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert sum("tokens/s/device" in text for text in texts) == 5


@pytest.mark.parametrize("option", ["--write", "--svg"])
def test_a_folder_that_is_not_there_is_told_before_the_search(option: str) -> None:
    done = llm_pretrain("plan", *CONFIG, *TWO, option, "no/such/folder/file")
    assert done.returncode == 1
    assert option in done.stderr
    assert "no/such/folder/file: there is no folder of that name" in " ".join(done.stderr.split())
    assert not done.stdout


def test_why_so_many_devices_have_no_layout() -> None:
    ramp = ("--batch_ramp", "[[0, 3], [9000, 16]]", "--gradient_accumulation_steps", "16")
    done = llm_pretrain("plan", *CONFIG, "--gpus", "7", *TWO[2:], *ramp)
    printed = " ".join(done.stdout.split())
    assert done.returncode == 1
    assert "NO LAYOUT of 7 devices is legal" in printed
    assert "every batch of batch_ramp is split, too" in printed


def test_the_same_as_json_and_one_option_of_the_run() -> None:
    done = llm_pretrain("plan", *CONFIG, *TWO, "--json", "--recompute", "true")
    found = json.loads(done.stdout)
    best = found["plans"][0]
    assert best["step_seconds"] == pytest.approx(sum(best["time_by_part"].values()))
    assert best["memory_bytes"] == pytest.approx(sum(best["memory_by_part"].values()))
    rates = [plan["tokens_per_second_per_device"] for plan in found["plans"]]
    assert rates == sorted(rates, reverse=True)
    assert found["own"]["keys"]["recompute"] is True
    for plan in (*found["plans"], found["own"]):
        gaps = plan["memory_by_part"]["fragments"] / 2**20
        allocated, reserved = plan["max_memory_allocated_mib"], plan["max_memory_reserved_mib"]
        assert reserved == pytest.approx(allocated + gaps)
        # What the allocator leaves of a layout is its own, and no flat share.
        assert reserved / allocated != pytest.approx(1.03, rel=1e-6)
    used = found["machine_numbers"]
    assert all(used[key]["source"] for key in ("memory_bandwidth", "product_efficiency"))


def test_no_part_of_a_deep_models_step_is_less_than_nothing() -> None:
    """What is hidden behind the first blocks does not grow with those that follow."""
    deep = ("--num_hidden_layers", "24", "--sharding", "stage2")
    done = llm_pretrain("plan", *CONFIG, "--gpus", "8", *TWO[2:], "--json", *deep)
    for plan in json.loads(done.stdout)["plans"]:
        assert min(plan["time_by_part"].values()) >= 0.0, plan["layout"]


def test_what_cannot_fit_is_refused_with_the_nearest_that_does(tmp_path: Path) -> None:
    machine = json.loads((ROOT / "llm_pretrain/planning/machines/a100-80g.json").read_text())
    machine["memory"]["value"] = 30.0e9
    small = tmp_path / "small.json"
    small.write_text(json.dumps(machine))
    big = ("--max_seq_length", "8192", "--per_device_train_batch_size", "512")
    done = llm_pretrain(
        "check",
        *CONFIG[:-2],
        *big,
        "--world_size",
        "2",
        "--gpu",
        str(small),
        "--recompute",
        "false",
    )
    assert done.returncode == 1
    told = " ".join(done.stderr.split())
    assert "doesn't fit: its fullest rank needs" in told
    assert "the nearest that does has" in told
    assert "per_device_train_batch_size" in told
    assert "PLAN" in done.stdout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--gpus", "2", "--gpu", "a200"), "no such machine; there are a100-40g"),
        (("--gpus", "two", "--gpu", "h100"), "'two' is no number of devices"),
        (("--gpu", "h100"), "--gpus: needed: on how many devices?"),
        (("--gpus", "2", "--gpu", "none.json"), "--gpu none.json: No such file"),
        (("--gpus", "2", "--gpu", "h100", "--recompute_granularity", "half"), "not available"),
        (("--gpus", "2", "--gpu", "v100-32g", "--bf16", "1"), "no products in bfloat16"),
    ],
)
def test_errors_say_what_is_wrong(words: tuple[str, ...], told: str) -> None:
    done = llm_pretrain("plan", *CONFIG, *words, columns=400)
    assert done.returncode == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_log_becomes_a_machine(tmp_path: Path) -> None:
    log, mine = tmp_path / "train_log.jsonl", tmp_path / "mine.json"
    plan = json.loads(llm_pretrain("plan", *CONFIG, *TWO, "--json").stdout)
    wanted = 1.5 * plan["own"]["step_seconds"]
    lines = [{"kind": "step", "step_seconds": seconds} for seconds in (9.0, wanted, wanted)]
    log.write_text("\n".join(map(json.dumps, lines)))
    done = llm_pretrain("plan", *CONFIG, *TWO, "--calibrate", str(log), "--write", str(mine))
    assert done.returncode == 0, done.stderr
    machine = read_machine(json.loads(mine.read_text()), "mine", "mine")
    assert machine.sustained < load_machine("a100-80g").sustained
    again = llm_pretrain("plan", *CONFIG, "--gpus", "2", "--gpu", str(mine), "--json")
    step = json.loads(again.stdout)["own"]["step_seconds"]
    assert step == pytest.approx(wanted, rel=0.01)
