"""Faults: losses that spike, bits that flip, ranks that end or are slow, and who is told."""

from __future__ import annotations

import re
import shlex
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from llm_pretrain.config.argument_types import Arguments, Integer, Number, Text, shown

Policy = Literal["warn", "skip_update", "rewind", "stop"]


class StabilityArguments(Arguments):
    """Stability: losses and gradients that leave their course."""

    on_spike: Policy = Field(
        "warn",
        description="What is done about a step whose loss or gradient norm leaps: warn; "
        "skip_update leaves the weights as they were; rewind goes back to the last checkpoint and "
        "passes over the data since; stop ends the run.",
    )
    on_nan: Policy = Field(
        "stop",
        description="The same where loss or gradient is not finite; warn skips the update, too, "
        "for no weight could take it.",
    )
    spike_window: Integer = Field(
        128,
        ge=8,
        description="Good steps whose losses and norms a new one is compared with, from half as "
        "many on.",
    )
    spike_threshold: Number = Field(
        6.0, gt=0, description="Standard deviations above their mean from which it is a spike."
    )
    max_rewinds: Integer = Field(
        3,
        ge=0,
        description="Times that a run, resumed parts included, goes back before it stops instead; "
        "for flipped bits, in a row.",
    )
    diverged_steps: Integer = Field(
        500,
        ge=0,
        description="Steps in a row with a loss above that of the run's first step after which the "
        "run has diverged and ends with an error; 0 never.",
    )


class IntegrityArguments(Arguments):
    """Integrity: bits that flip in memory."""

    integrity: Literal["off", "replicas", "repeat"] = Field(
        "replicas",
        description="replicas: ranks that hold the same values compare the sums of their bits, and "
        "the run goes back where they differ. repeat: besides, each rank checks at every step that "
        "its values have stayed as AdamW left them, and computes the step of the interval twice.",
    )
    integrity_interval: Integer = Field(
        100,
        gt=0,
        description="Steps between two comparisons; there is one before each checkpoint, too.",
    )


class RestartArguments(Arguments):
    """Restarts: ranks that end, hang or are slow, under `llm-pretrain launch`."""

    max_restarts: Integer = Field(
        10,
        ge=0,
        description="Restarts within restart_window before the job gives up; "
        "ranks that die together are one.",
    )
    restart_window: Number = Field(
        3600, gt=0, description="Seconds over which max_restarts are counted."
    )
    min_processes: Integer | None = Field(
        None,
        gt=0,
        description="The fewest processes with which a job of several machines goes on, at the "
        "same batch, when a machine is lost; it grows again when that machine's launcher comes "
        "back. Unless it is set, the loss of a machine ends the job.",
    )
    straggler_threshold: Number = Field(
        1.5,
        gt=1,
        description="A rank that computes for this many times the median of the ranks is slow.",
    )
    straggler_steps: Integer = Field(
        20, gt=0, description="Steps in a row that a rank must be slow for a warning."
    )


def _command(value: str) -> str:
    try:
        words = shlex.split(value)
    except ValueError as error:
        raise ValueError(f"{shown(value)} can't be split into words: {error}") from None
    if not words:
        raise ValueError(f"{shown(value)} names no program")
    return value


def _url(value: str) -> str:
    try:
        parts = urlsplit(value)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_url = False
    if not is_url or not value.isascii() or " " in value:
        raise ValueError(f"{shown(value)} is no URL of http or https")
    return value


def _place(value: Any) -> Any:
    address, _, number = str(value).rpartition(":")
    is_port = type(value) in (int, float, str) and re.fullmatch(r"\d{1,5}(\.0)?", number)
    if not is_port or float(number) > 65535:
        raise ValueError(f"{shown(value)} is neither a port, 0 to 65535, nor ADDRESS:PORT")
    return f"{address}:{int(float(number))}" if address else int(float(number))


Place = Annotated[
    int | str,
    BeforeValidator(_place),
    WithJsonSchema({"anyOf": [{"type": "integer"}, {"type": "string", "pattern": ":[0-9]+$"}]}),
]
CommandText = Annotated[Text, AfterValidator(_command)]
UrlText = Annotated[Text, AfterValidator(_url)]


class AlertArguments(Arguments):
    """Alerts: what programs are told of a run."""

    alert_command: CommandText | None = Field(
        None,
        description="Command that gets each event (failure, restart, spike, failed save, end) as "
        "JSON on its standard input. No shell runs it, and what it prints is not shown.",
    )
    alert_url: UrlText | None = Field(
        None, description="http or https URL that gets each event as JSON in a POST."
    )
    metrics_port: Place | None = Field(
        None,
        description="Port at which rank 0 shows Prometheus its metrics: loopback's, unless an "
        "address is given with it, such as 0.0.0.0:9400.",
    )
