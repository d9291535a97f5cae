"""What a calibration reads of a log."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_pretrain.config import ConfigError
from llm_pretrain.planning.calibrate import logged_step_seconds

FIRST = b'{"kind": "step", "step_seconds": 9.0}\n'


def log(folder: Path, content: bytes) -> str:
    (folder / "train_log.jsonl").write_bytes(content)
    return str(folder / "train_log.jsonl")


def test_the_first_interval_does_not_count(tmp_path: Path) -> None:
    steps = b"".join(b'{"kind": "step", "step_seconds": %.1f}\n' % n for n in (1.0, 3.0, 2.0))
    cut_short = b'{"kind": "step", "step_sec'
    assert logged_step_seconds(log(tmp_path, FIRST + steps + cut_short)) == 2.0


@pytest.mark.parametrize(
    "value", [b'"abc"', b"[1]", b"-3.0", b"0.0", b"NaN", b"Infinity", b"true", b'"\xff"']
)
def test_a_step_of_no_seconds_is_an_error(tmp_path: Path, value: bytes) -> None:
    line = b'{"kind": "step", "step_seconds": ' + value + b"}\n"
    with pytest.raises(ConfigError, match="a step of"):
        logged_step_seconds(log(tmp_path, FIRST + line))


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"plain text\n", FIRST])
def test_too_few_steps_are_an_error(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ConfigError, match="two logged steps or more"):
        logged_step_seconds(log(tmp_path, content))


def test_a_log_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        logged_step_seconds(str(tmp_path / "none"))
