"""The scale of a float16 loss, which keeps small gradients from vanishing."""

from __future__ import annotations

GROWTH_INTERVAL = 2000
"""Steps without overflow after which the scale doubles (Paddle's GradScaler)."""


class LossScale:
    """Halved when a gradient overflows, doubled after `GROWTH_INTERVAL` steps without overflow.

    Args:
        initial: the first scale; 1.0 with `is_dynamic` false leaves losses alone.
        is_dynamic: whether the scale moves: float16 alone needs it.
    """

    def __init__(self, initial: float, *, is_dynamic: bool) -> None:
        self.value = float(initial)
        self.is_dynamic = is_dynamic
        self.steps_without_overflow = 0

    @property
    def can_shrink(self) -> bool:
        """Whether an overflow may be the scale's fault."""
        return self.is_dynamic and self.value > 1.0

    def update(self, *, overflowed: bool) -> None:
        if not self.is_dynamic:
            return
        if overflowed:
            self.value = max(self.value / 2.0, 1.0)
            self.steps_without_overflow = 0
            return
        self.steps_without_overflow += 1
        if self.steps_without_overflow == GROWTH_INTERVAL:
            self.value *= 2.0
            self.steps_without_overflow = 0

    def state(self) -> dict[str, float]:
        return {"value": self.value, "steps_without_overflow": self.steps_without_overflow}

    def restore(self, state: dict[str, float]) -> None:
        self.value = float(state["value"])
        self.steps_without_overflow = int(state["steps_without_overflow"])
