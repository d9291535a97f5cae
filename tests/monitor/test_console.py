from __future__ import annotations

import io

import pytest

from llm_pretrain.monitor.console import Console, duration, sparkline


def metrics(step: int, **more: float | None) -> dict[str, float | int | None]:
    return {"global_step": step, "loss": 5.25, "learning_rate": 3e-4, **more}


def test_a_plain_line_tells_step_loss_and_time_left() -> None:
    stream = io.StringIO()
    times = iter([0.0, 20.0])
    console = Console(100, stream=stream, clock=lambda: next(times))
    console.step(metrics(10))
    console.step(metrics(20, interval_tokens_per_second_per_device=12345.6, mfu=None))
    first, second = stream.getvalue().splitlines()
    assert first.startswith("step 10/100 (10.0%)  loss 5.2500")
    assert "12,346 tokens/s/device" in second or "tokens/s/device 12,346" in second
    assert "MFU" not in second
    assert second.endswith("2:40 left")


def test_a_loss_that_is_no_number_is_shown() -> None:
    stream = io.StringIO()
    Console(10, stream=stream).step(metrics(1, loss=float("nan")))
    assert "loss nan" in stream.getvalue()


def test_evaluations_and_messages_are_lines() -> None:
    stream = io.StringIO()
    console = Console(10, stream=stream)
    console.evaluation({"global_step": 5, "eval_loss": 4.0, "eval_ppl": 54.6})
    console.message("saved [bold]here[/bold]")
    assert stream.getvalue() == (
        "evaluation after step 5  evaluation loss 4.0000  perplexity 54.60\n"
        "saved [bold]here[/bold]\n"
    )


def test_a_narrow_encoding_does_not_stop_the_run() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Console(10, stream=stream).message("curve ▁▂")
    stream.seek(0)
    assert stream.read() == "curve ??\n"


def test_a_terminal_gets_a_moving_line_with_messages_above() -> None:
    stream = io.StringIO()
    console = Console(10, live=True, stream=stream)
    console.step(metrics(3))
    console.message("saved [bold]here[/bold]")
    console.close()
    console.message("after the end")
    shown = stream.getvalue()
    assert "3/10" in shown
    assert "loss 5.2500" in shown
    assert "saved [bold]here[/bold]" in shown
    assert shown.endswith("after the end\n")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (123, "2:03"), (3723, "1:02:03")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_sparkline() -> None:
    assert sparkline([]) == ""
    assert sparkline([2.0, 2.0]) == "▁▁"
    assert sparkline([8, 7, 6, 5, 4, 3, 2, 1]) == "█▇▆▅▄▃▂▁"
    assert len(sparkline(list(range(1000)), width=40)) == 40
