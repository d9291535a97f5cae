"""What is counted of a run: over all of it, and since the last report."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class Progress:
    """Counted over the whole run, resumed parts included; stored in checkpoints."""

    global_step: int = 0
    consumed_samples: int = 0
    best_metric: float | None = None
    best_step: int | None = None
    skipped_steps: int = 0
    """Steps that changed no weight: float16 overflowed, or `on_spike` and `on_nan` said so."""
    evaluated_step: int | None = None
    """The last step that was evaluated."""

    def state(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def restore(cls, state: dict[str, Any]) -> Progress:
        return cls(
            int(state["global_step"]),
            int(state["consumed_samples"]),
            state["best_metric"],
            state["best_step"],
            # Absent in checkpoints of older versions.
            int(state.get("skipped_steps", 0)),
            state.get("evaluated_step"),
        )


@dataclass
class Interval:
    """Sums over the steps since the last report, or since the start."""

    steps: int = 0
    losses: int = 0
    """That were finite, of which `loss` is the sum."""
    loss: float = 0.0
    seconds: float = 0.0
    tokens: int = 0
    """Of all devices together."""
    flops: int = 0
    """Floating-point operations of all devices, as the MFU counts them."""
    wait_seconds: float = 0.0
    """Of this rank, for data."""
    last: Interval | None = None
    """The last step alone."""

    def add(
        self, *, loss: float, seconds: float, tokens: int, flops: int, wait_seconds: float
    ) -> None:
        self.steps += 1
        if math.isfinite(loss):
            self.losses += 1
            self.loss += loss
        self.seconds += seconds
        self.tokens += tokens
        self.flops += flops
        self.wait_seconds += wait_seconds
        self.last = Interval(
            steps=1,
            losses=int(math.isfinite(loss)),
            loss=loss,
            seconds=seconds,
            tokens=tokens,
            flops=flops,
            wait_seconds=wait_seconds,
        )

    @property
    def mean_loss(self) -> float:
        """Of the finite losses; the last one if none was."""
        if self.losses:
            return self.loss / self.losses
        return self.last.loss if self.last else math.nan
