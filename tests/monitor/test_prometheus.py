"""The page that Prometheus reads: its form, its numbers, and that it is in nobody's way."""

from __future__ import annotations

import math
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from llm_pretrain.monitor.page_server import PageServer
from llm_pretrain.monitor.prometheus import CONTENT_TYPE, COUNTERS, GAUGES, MetricsPage
from llm_pretrain.monitor.reporter import Reporter
from tests.launching import free_port

SAMPLE = re.compile(
    r"(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)"
    r'(?P<labels>\{[a-z_]+="(?:[^"\\\n]|\\["\\n])*"(?:,[a-z_]+="(?:[^"\\\n]|\\["\\n])*")*\})?'
    r" (?P<value>NaN|[+-]Inf|-?[0-9.]+(?:e[+-]?[0-9]+)?)"
)


def samples(text: str) -> dict[str, float]:
    """The numbers of a page by name and labels, once its form has been found right."""
    found: dict[str, float] = {}
    family, kinds = "", {}
    assert text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("# HELP "):
            family = line.split()[2]
            assert family not in kinds, "a family stands together"
            assert len(line.split(maxsplit=3)) == 4
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            assert name == family, "HELP and TYPE stand together"
            kinds[name] = kind
        else:
            match = SAMPLE.fullmatch(line)
            assert match, line
            assert match["name"] == family
            assert (kinds[family] == "counter") == family.endswith("_total")
            key = match["name"] + (match["labels"] or "")
            assert key not in found
            found[key] = float(match["value"])
    assert all(name.startswith("llm_pretrain_") for name in kinds)
    return found


def get(url: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=10) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return str(answer.read().decode())


def test_every_gauge_and_counter_has_its_form() -> None:
    page = MetricsPage('C:\\out "1"\nnext', "node-1")
    page.set(dict.fromkeys(GAUGES, 1.5) | {"novel": 2, "text": "no", "none": None})
    for name in COUNTERS:
        page.count(name)
    found = samples(page.text())
    assert found["llm_pretrain_novel"] == 2
    assert found["llm_pretrain_max_memory_allocated_bytes"] == 1.5 * 2**20
    assert found['llm_pretrain_run_info{run="C:\\\\out \\"1\\"\\nnext",host="node-1"}'] == 1
    assert len({gauge.name for gauge in GAUGES.values()}) == len(GAUGES)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.1, -3.0, 1e-30, 2.0**60, 12345])
def test_numbers_keep_every_digit(value: float) -> None:
    page = MetricsPage("out", "host")
    page.set({"loss": value})
    assert samples(page.text())["llm_pretrain_loss"] == pytest.approx(value, rel=0, nan_ok=True)


def test_counters_do_not_fall() -> None:
    page = MetricsPage("out", "host")
    for seconds in (2.0, 1.0):
        page.count_up_to("wall_seconds_total", {"training": 5.0, "other": seconds}, "share")
    found = samples(page.text())
    assert found['llm_pretrain_wall_seconds_total{share="other"}'] == 2.0


def test_a_run_shows_what_its_log_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter(tmp_path, tmp_path, "none", max_steps=3)
    reporter.serve(0)
    match = re.search(r"Prometheus: (http://127\.0\.0\.1:\d+/metrics)\n", capsys.readouterr().out)
    assert match
    reporter.step({"global_step": 2, "loss": 3.5, "mfu": None})
    reporter.evaluation({"global_step": 2, "eval_loss": 4.5})
    saved = {"checkpoint": "c", "bytes": 10, "seconds": 0.5, "blocked_seconds": 0.25}
    reporter.saved({"global_step": 2, **saved})
    for kind in ("spike", "failed_save"):
        reporter.event({"event": kind, "global_step": 2, "message": "text"})
    found = samples(get(match[1]))
    assert found["llm_pretrain_loss"] == 3.5
    assert found["llm_pretrain_evaluation_loss"] == 4.5
    assert found["llm_pretrain_save_bytes"] == 10
    assert found["llm_pretrain_save_blocked_seconds"] == 0.25
    assert found["llm_pretrain_saves_total"] == 1
    assert found["llm_pretrain_failed_saves_total"] == 1
    assert found['llm_pretrain_events_total{event="spike"}'] == 1
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(match[1].removesuffix("metrics"))
    reporter.close()
    with pytest.raises(urllib.error.URLError):
        get(match[1])
    again = Reporter(tmp_path, tmp_path, "none", max_steps=3)
    assert samples(again.page.text())["llm_pretrain_restarts_total"] == 1
    again.close()


def test_a_port_that_is_taken_is_one_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        reporter = Reporter(tmp_path, tmp_path, "none", max_steps=3)
        reporter.serve(port)
        reporter.close()
    (line,) = capsys.readouterr().out.splitlines()
    assert line == f"warning: no metrics at metrics_port {port}: Address already in use."


def test_a_client_that_says_nothing_is_in_nobodys_way() -> None:
    server = PageServer(
        "/metrics", CONTENT_TYPE, MetricsPage("out", "host").text, f"127.0.0.1:{free_port()}"
    )
    port = int(server.url.split(":")[2].partition("/")[0])
    with socket.create_connection(("127.0.0.1", port)):
        began = time.monotonic()
        assert samples(get(server.url))
        assert time.monotonic() - began < 3
    server.close()


def test_the_server_does_not_keep_a_finished_process() -> None:
    code = (
        "from llm_pretrain.monitor.page_server import PageServer\n"
        "import socket\n"
        "server = PageServer('/metrics', 'text/plain', lambda: '', 0)\n"
        "port = int(server.url.split(':')[2].partition('/')[0])\n"
        "client = socket.create_connection(('127.0.0.1', port))\n"
    )
    assert subprocess.Popen([sys.executable, "-c", code]).wait(20) == 0
