"""The tutorial's commands, all of them, and the page that they end with in a browser."""

from __future__ import annotations

import html
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llm_pretrain.monitor.metrics_log import read_metrics
from tests.test_readme import ROOT, TUTORIAL, blocks

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
WIDTHS = (360, 768, 1280)
"""A telephone's, a tablet's and a laptop's, in CSS pixels."""
RUN = "output/tutorial/run"
MEASURE = """
<script>
onload = () => {
  const found = [...document.querySelectorAll("iframe")].map((frame) => {
    const page = frame.contentDocument;
    const box = (each) => each.getBoundingClientRect();
    return {
      width: page.documentElement.clientWidth,
      needed: page.documentElement.scrollWidth,
      text: page.body.innerText,
      curves: [...page.querySelectorAll("svg polyline")]
        .filter((line) => box(line).width > 0)
        .map((line) => [line.getTotalLength(), box(line).left, box(line).right]),
    };
  });
  const pre = document.createElement("pre");
  pre.id = "found";
  pre.textContent = JSON.stringify(found);
  document.body.replaceChildren(pre);
};
</script>
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone after the page's commands, but for the set-up, which is this interpreter's."""
    folder = tmp_path_factory.mktemp("clone")
    shutil.copytree(ROOT / "configs", folder / "configs")
    (folder / "bin").mkdir()
    for name, words in (("python", ""), ("llm-pretrain", " -m llm_pretrain")):
        script = folder / "bin" / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}"{words} "$@"\n')
        script.chmod(0o755)
    (configuration,) = blocks(TUTORIAL, "json")
    (folder / "tutorial.json").write_text(configuration, encoding="utf-8")
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("PADDLE_")
    }
    environment["PATH"] = f"{folder / 'bin'}{os.pathsep}{environment['PATH']}"
    environment["PYTHONPATH"] = str(ROOT)
    set_up, *commands = blocks(TUTORIAL, "bash")
    assert "make setup" in set_up
    with (folder / "console.txt").open("w") as console:
        for command in commands:
            done = subprocess.run(
                ["bash", "-ec", command],
                cwd=folder,
                env=environment,
                stdout=console,
                stderr=subprocess.STDOUT,
                check=False,
            )
            assert done.returncode == 0, (
                f"{command}\n{(folder / 'console.txt').read_text()[-4000:]}"
            )
    return folder


@pytest.mark.slow
def test_the_model_has_learned(folder: Path) -> None:
    lines = read_metrics(folder / RUN)
    model = json.loads((folder / RUN / "config.json").read_text(encoding="utf-8"))
    evaluations = [line["eval_loss"] for line in lines if line["kind"] == "evaluation"]
    assert evaluations == sorted(evaluations, reverse=True)
    assert evaluations[-1] < 0.8 * math.log(model["vocab_size"])
    console = (folder / "console.txt").read_text(encoding="utf-8")
    assert "No problem found." in console
    (held_out,) = re.findall(
        r"^loss (\d\.\d+)  perplexity .*  bits per byte (?:\d\.\d+)", console, re.M
    )
    # Neither of the two was trained on.
    assert float(held_out) == pytest.approx(evaluations[-1], rel=0.2)
    assert console.count("\nThe function returns") >= 1


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no chromium to look with")
def test_the_report_fits_three_screens(folder: Path, tmp_path: Path) -> None:
    page = (folder / "output/tutorial/run.html").read_text(encoding="utf-8")
    # One that is given so has its frame's width, and is no stranger to the page around it.
    frames = "".join(
        f'<iframe width="{width}" height="800" srcdoc="{html.escape(page)}"></iframe>'
        for width in WIDTHS
    )
    (tmp_path / "frames.html").write_text(
        f"<!DOCTYPE html><meta charset=utf-8><style>iframe{{border:0}}</style>{MEASURE}{frames}",
        encoding="utf-8",
    )
    look = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    look += [f"--user-data-dir={tmp_path / 'browser'}", "--window-size=1400,900"]
    seen = subprocess.run(
        [*look, (tmp_path / "frames.html").as_uri()],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    (text,) = re.findall(r'<pre id="found">(.*?)</pre>', seen, re.DOTALL)
    found: list[dict[str, Any]] = json.loads(html.unescape(text))
    assert [each["width"] for each in found] == pytest.approx(WIDTHS, abs=20), (
        "but for a scroll bar"
    )
    for each in found:
        assert each["needed"] <= each["width"], "nothing lies beyond the right edge"
        # Loss, its mean, norm, rate, speed and memory.
        assert len(each["curves"]) >= 5
        for length, left, right in each["curves"]:
            assert length > 0
            assert 0 <= left < right <= each["width"]
        assert "The function returns" in each["text"]
        assert "400" in each["text"]
