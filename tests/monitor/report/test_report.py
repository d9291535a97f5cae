"""The page of a run: its values are the log's, and whatever stands in a file is only shown."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, build_opener

import pytest

from llm_pretrain.cli import main
from llm_pretrain.monitor.metrics_log import MetricsLog
from llm_pretrain.monitor.report.history import RECORD_NAME
from llm_pretrain.training import run_record
from tests.launching import ROOT

VOID = {"meta", "br", "path"}
PLANNED = {"planned_tokens_per_second_per_device": 1234.0, "planned_max_memory_allocated": 777.0}


def record(**values: Any) -> dict[str, Any]:
    """A run.json whose configuration holds `values`, each as if from run.yaml."""
    configuration = {
        key: {"value": value, "source": "run.yaml"}
        for key, value in {"max_seq_length": 32, "max_steps": 40, **values}.items()
    }
    return {
        "command": "llm-pretrain train run.yaml",
        "directory": "/srv/runs",
        "git_commit": "abc123",
        "configuration": {**configuration, "seed": {"value": 42, "source": "default"}},
        "versions": {"python": "3.11.2", "paddlepaddle": "3.3.0"},
        "machine": {"host": "node7", "memory_bytes": 8 * 2**30},
        "starts": [{"time": "2026-11-30T04:00:00+00:00", "step": 0, "processes": 2, "changes": []}],
    }


def write_run(folder: Path, steps: int = 40, **values: Any) -> Path:
    """A run of `steps` logged steps that spikes, evaluates, saves and ends."""
    log = MetricsLog(folder)
    for step in range(1, steps + 1):
        metrics = {
            "global_step": step,
            "loss": 4.0 - step / 20,
            "ppl": 20.0,
            "learning_rate": 1e-3,
            "global_norm": 0.5,
            "interval_tokens_per_second_per_device": 1000.0,
            "max_memory_allocated": 700.0,
            "mfu": 0.41,
            "consumed_samples": 16 * step,
            "slowest_rank": step % 2,
            "slowest_rank_seconds": 0.4,
            "median_rank_seconds": 0.3,
        }
        log.write("step", metrics)
    log.write("event", {"global_step": 7, "event": "spike", "message": "Step 7 spikes."})
    evaluation = {"eval_loss": 2.1234, "eval_ppl": 8.36, "eval_bits_per_byte": 0.7659}
    log.write("evaluation", {"global_step": steps, **evaluation})
    save = {"checkpoint": "out/checkpoint-40", "bytes": 2_110_000, "seconds": 0.7}
    log.write("save", {"global_step": steps, **save})
    seconds = {"training": 3240.0, "start": 180.0, "saving": 180.0}
    log.write("goodput", {"goodput": 0.9, "highest_step": steps, "seconds": seconds})
    log.write("summary", {"global_step": steps, "final_model": "out", **PLANNED})
    log.close()
    (folder / RECORD_NAME).write_text(json.dumps(record(**values)), encoding="utf-8")
    return folder


class Page(HTMLParser):
    """A page whose tags must be closed in their order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.html = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.text = ""
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(self.html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += f"{data} "

    def tips(self) -> list[str]:
        """What the marks tell under the pointer."""
        return [values["data-tip"] or "" for _, values in self.tags if "data-tip" in values]


def report(*runs: Path, output: Path, language: str = "en") -> Page:
    words = [*map(str, runs), "-o", str(output), "--language", language]
    assert main(["report", *words]) == 0
    return Page(output)


def figures(page: Page) -> dict[str, str]:
    return dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page.html))


def test_the_record_is_the_one_that_a_training_writes() -> None:
    assert run_record.FILE_NAME == RECORD_NAME


def test_the_verdict_is_that_of_the_log(tmp_path: Path) -> None:
    page = report(write_run(tmp_path / "run"), output=tmp_path / "run.html")
    assert figures(page) == {
        "State": "done",
        "Step": "40/40",
        "Loss": "2.0000",
        "Evaluation loss": "2.1234",
        "Perplexity": "8.3595",  # e to 2.1234
        "Bits per byte": "0.7659",
        "Tokens": "20.48k",  # 40 steps of 16 samples of 32 tokens
        "Hours": "1.00",
        "Tokens/s/device": "1,000",
        "MFU": "41.0%",
        "Goodput": "90.0%",
    }


def test_marks_tell_what_happened(tmp_path: Path) -> None:
    tips = report(write_run(tmp_path / "run"), output=tmp_path / "run.html").tips()
    assert "Spike, Step 7: Step 7 spikes." in tips
    assert "Evaluation, Step 40: Loss 2.1234, Perplexity 8.3600" in tips
    assert "Checkpoint, Step 40: out/checkpoint-40, 2.11MB, 0.7 s" in tips


def test_the_page_shows_plan_configuration_and_how_to_repeat(tmp_path: Path) -> None:
    page = report(write_run(tmp_path / "run", learning_rate=0.002), output=tmp_path / "run.html")
    for shown in (
        "planned 1,234",
        "planned 777",
        "learning_rate 0.002 run.yaml",
        "1 defaults",
        "cd /srv/runs\nllm-pretrain train run.yaml",
        "abc123",
        "node7",
        "8.0 GiB",
        "training 90.0% 0.90 h",
    ):
        assert shown in re.sub(" +", " ", page.text)


def test_a_curve_goes_where_the_losses_go(tmp_path: Path) -> None:
    page = report(write_run(tmp_path / "run"), output=tmp_path / "run.html")
    raw = next(
        values["points"] or ""
        for tag, values in page.tags
        if tag == "polyline" and values["class"] == "c0 raw"
    )
    points = [tuple(map(float, point.split(","))) for point in raw.split()]
    assert len(points) == 40
    assert points[0][0] == 0
    assert points[-1][0] == 1000
    falls = [after[1] - before[1] for before, after in pairwise(points)]
    # The losses fall evenly, and downwards is the growing direction of an SVG.
    assert max(falls) - min(falls) < 0.3
    assert min(falls) > 0


def test_the_page_loads_nothing_and_is_small(tmp_path: Path) -> None:
    page = report(write_run(tmp_path / "run", steps=20_000), output=tmp_path / "run.html")
    assert len(page.html.encode()) < 300_000
    assert not any({"src", "href"} & values.keys() for _, values in page.tags)
    assert not {"link", "img", "iframe"} & {tag for tag, _ in page.tags}
    assert "http" not in page.html
    assert "url(" not in page.html
    assert "@import" not in page.html


def test_what_stands_in_files_is_escaped(tmp_path: Path) -> None:
    evil = "</td><script>alert(1)</script>\"'&"
    run = write_run(tmp_path / "run<b>", input_dir=evil)
    log = MetricsLog(run)
    for kind in ("spike", evil):
        log.write("event", {"global_step": 9, "event": kind, "message": evil})
    log.close()
    content = json.loads((run / RECORD_NAME).read_text())
    content |= {"command": evil, "directory": evil, "git_commit": evil, "versions": {evil: evil}}
    content["starts"][0] |= {"changes": [evil], "time": evil}
    (run / RECORD_NAME).write_text(json.dumps(content))
    page = report(run, run, output=tmp_path / "run.html")
    single = report(run, output=tmp_path / "one.html")
    for made in (page, single):
        assert [tag for tag, _ in made.tags].count("script") == 1
        assert "<b>" not in made.html.replace("<b>9", "").replace("<b>5", "")
    assert any("<script>" in tip for tip in single.tips())
    assert evil in single.text


@pytest.mark.parametrize("steps", [0, 1])
def test_a_run_that_hardly_began_has_a_page(steps: int, tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "run")
    for step in range(1, steps + 1):
        log.write("step", {"global_step": step, "loss": 4.0, "consumed_samples": 16})
    log.close()
    page = report(tmp_path / "run", output=tmp_path / "run.html")
    assert figures(page)["State"] == ("interrupted" if steps else "not begun")
    assert ("No step has been logged." in page.text) == (steps == 0)
    assert "There is no run.json" in page.text


def test_losses_that_are_no_numbers_are_gaps_and_marks(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "run")
    for step in range(1, 10):
        log.write("step", {"global_step": step, "loss": float("nan") if step == 5 else 3.0})
    log.close()
    page = report(tmp_path / "run", output=tmp_path / "run.html")
    assert "Not finite, Step 5: loss nan" in page.tips()
    assert page.html.count('<polyline class="c0 raw"') == 2
    assert "nan" not in "".join(values.get("points") or "" for _, values in page.tags)


def test_a_log_cut_short_and_a_damaged_record_have_a_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    with (run / "train_log.jsonl").open("a") as log:
        log.write('{"run": 1, "kind": "step", "glob')
    (run / RECORD_NAME).write_text('{"configuration": [1')
    page = report(run, output=tmp_path / "run.html")
    assert figures(page)["Loss"] == "2.0000"
    assert "Loss over steps" in page.text
    for content in ("[]", '{"configuration": [], "starts": 3, "machine": 7, "goodput": null}'):
        (run / RECORD_NAME).write_text(content)
        report(run, output=tmp_path / "run.html")


def test_what_is_no_run_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    for name, why in (("none", "is no folder"), ("empty", "holds neither train_log.jsonl nor")):
        assert main(["report", str(tmp_path / name), "-o", str(tmp_path / "a.html")]) == 1
        assert why in capsys.readouterr().err
    run = write_run(tmp_path / "run")
    for place, why in (("nowhere/a.html", "there is no folder"), ("empty", "is a folder; name")):
        assert main(["report", str(run), "-o", str(tmp_path / place)]) == 1
        assert why in capsys.readouterr().err
    assert main(["report", str(run), "-o", "a.html", "--serve"]) == 2
    assert "not allowed with argument" in capsys.readouterr().err


def test_runs_side_by_side_show_what_differs(tmp_path: Path) -> None:
    first = write_run(tmp_path / "low" / "run", learning_rate=0.001, output_dir="a")
    second = write_run(tmp_path / "high" / "run", learning_rate=0.002, output_dir="b")
    page = report(first, second, output=tmp_path / "two.html")
    table = page.html.split("What differs in configuration")[1].split("</section>")[0]
    cells = re.findall(r"<td><code>(.*?)</code></td>", table)
    assert cells == ["learning_rate", "0.001", "0.002"]
    assert "Comparison of 2 runs" in page.text
    assert "+0.0000" in page.text
    colours = {values["class"] for tag, values in page.tags if tag == "polyline"}
    assert {"c0 smooth", "c1 smooth"} <= colours
    assert not any("run/" in tip or str(tmp_path) in tip for tip in page.tips())


def test_the_page_speaks_chinese(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path / "run")
    page = report(run, output=tmp_path / "run.html", language="zh")
    assert '<html lang="zh-CN">' in page.html
    assert figures(page)["状态"] == "已完成"
    for name in ("LLM_PRETRAIN_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for locale, title in (("zh_CN.UTF-8", "训练报告"), ("de_DE.UTF-8", "Report of a run")):
        monkeypatch.setenv("LANG", locale)
        assert main(["report", str(run), "-o", str(tmp_path / "l.html")]) == 0
        assert title in (tmp_path / "l.html").read_text(encoding="utf-8")


def test_a_pipeline_is_drawn(tmp_path: Path) -> None:
    keys = {"pipeline_parallel_degree": 4, "gradient_accumulation_steps": 8}
    page = report(write_run(tmp_path / "run", **keys), output=tmp_path / "run.html")
    # (stages - 1) / (stages - 1 + micro-batches), arXiv:2104.04473, section 2.2.1
    assert "the stages then wait 27.3% of the step" in page.text
    large = {"pipeline_parallel_degree": 64, "virtual_pp_degree": 4}
    run = write_run(tmp_path / "large", **large, gradient_accumulation_steps=512)
    assert "too many stages" in report(run, output=tmp_path / "large.html").text


def test_a_run_is_shown_live(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", steps=3)
    words = [sys.executable, "-m", "llm_pretrain", "report", str(folder), "--serve"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().split()[0]
            assert url.startswith("http://127.0.0.1:")
            before = read_page(url)
            assert '<meta http-equiv="refresh"' in before
            assert "Step 4" not in before
            log = MetricsLog(folder)
            log.write("event", {"global_step": 4, "event": "spike", "message": "Step 4 spikes."})
            log.close()
            assert "Step 4 spikes." in read_page(url)
            shutil.rmtree(folder)
            with pytest.raises(HTTPError) as refused:
                read_page(url)
            with refused.value as answer:
                assert answer.code == 500
        finally:
            server.send_signal(signal.SIGINT)
        assert server.wait() == 0


def read_page(url: str) -> str:
    with build_opener(ProxyHandler({})).open(url, timeout=60) as answer:
        return str(answer.read().decode())


@pytest.mark.parametrize("port", [1, 99999])
def test_a_port_that_cant_be_had_is_said(
    port: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1] if port == 1 else port
        folder = write_run(tmp_path / "run", steps=3)
        assert main(["report", str(folder), "--serve", str(port)]) == 1
    assert f"llm-pretrain report: port {port}: " in capsys.readouterr().err


def test_samples_of_text_are_shown_the_newest_first(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    log = MetricsLog(folder)
    for step in (10, 20):
        text = f"text {step} <script>"
        log.write("sample", {"global_step": 40 + step, "prompt": "Once", "text": text})
        log.write("sample", {"global_step": 40 + step, "prompt": "Twice", "text": text})
    log.close()
    page = report(folder, output=tmp_path / "run.html")
    told = [tip for tip in page.tips() if tip.startswith("Sample, ")]
    assert told == [
        f"Sample, Step {40 + step}: Once|text {step} <script>; Twice|text {step} <script>"
        for step in (10, 20)
    ]
    assert "Samples of text" in page.text
    assert page.text.index("text 20 <script>") < page.text.index("text 10 <script>")
