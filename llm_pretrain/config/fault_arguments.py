"""Faults: losses that spike, bits that flip, ranks that end or are slow, and who is told."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from llm_pretrain.config.argument_types import Arguments, Integer, Number, Text

Policy = Literal["warn", "skip_update", "rewind", "stop"]


class StabilityArguments(Arguments):
    """Stability: losses and gradients that leave their course."""

    on_spike: Policy = Field(
        "warn",
        description="What is done about a loss or a gradient's norm that leaps: warn; skip_update "
        "leaves the weights as they were; rewind goes back to the last checkpoint and passes over "
        "the data since; stop ends the run.",
    )
    on_nan: Policy = Field(
        "stop", description="The same for a loss or a gradient that is not finite."
    )
    spike_window: Integer = Field(
        128, ge=8, description="Steps whose losses and norms a new one is compared with."
    )
    spike_threshold: Number = Field(
        6.0, gt=0, description="Standard deviations above their mean from which it is a spike."
    )
    max_rewinds: Integer = Field(
        3, ge=0, description="Times that a run goes back before it stops instead."
    )
    diverged_steps: Integer = Field(
        500,
        ge=0,
        description="Steps in a row with a loss above the run's first after which the run has "
        "diverged and ends with an error; 0 never.",
    )


class IntegrityArguments(Arguments):
    """Integrity: bits that flip in memory."""

    integrity: Literal["off", "replicas", "repeat"] = Field(
        "replicas",
        description="replicas: ranks that hold the same values compare checksums of them; repeat: "
        "a rank that shares its values with none also repeats the step that it compares.",
    )
    integrity_interval: Integer = Field(
        100, gt=0, description="Steps between two comparisons of the weights' checksums."
    )


class RestartArguments(Arguments):
    """Restarts: ranks that end, hang or are slow, under `llm-pretrain launch`."""

    max_restarts: Integer = Field(
        10, ge=0, description="Ranks replaced within restart_window before the job gives up."
    )
    restart_window: Number = Field(
        3600, gt=0, description="Seconds over which max_restarts are counted."
    )
    min_processes: Integer | None = Field(
        None,
        gt=0,
        description="Not supported, and refused: a job goes on with all of its processes.",
    )
    straggler_threshold: Number = Field(
        1.5,
        gt=1,
        description="A rank that computes for this many times the median of the ranks is slow.",
    )
    straggler_steps: Integer = Field(
        20, gt=0, description="Steps in a row that a rank must be slow for a warning."
    )


class AlertArguments(Arguments):
    """Alerts: what programs are told of a run."""

    alert_command: Text | None = Field(
        None,
        description="Command that gets each event (failure, restart, spike, failed save, end) as "
        "JSON on its standard input.",
    )
    alert_url: Text | None = Field(
        None, description="URL that gets each event as JSON in an HTTP POST."
    )
    metrics_port: Integer | None = Field(
        None, ge=0, le=65535, description="Port at which rank 0 shows its metrics to Prometheus."
    )
