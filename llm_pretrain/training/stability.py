"""Steps whose loss or gradient leaves its course, told before they change a weight.

A step is a spike where its loss or the norm of its gradient lies `spike_threshold` deviations above
the mean of the last `spike_window` steps that were good. A spike does not enter the window, so it
can't widen its own threshold. With less than half a window of good steps there is no verdict, and
as many spikes in a row are a new level: the window begins anew.

The loss and the norm are the same numbers on every rank, and all that is decided here follows from
them and from the state in the checkpoint: all ranks decide alike without asking each other, and a
run that is resumed decides as one that was never stopped.

A run that goes back takes up the weights, the moments and this state of the last checkpoint, but
neither its step nor its samples: it goes on with the next step and the next samples, as if the
steps since the checkpoint had been in `skip_data_intervals` from the start. So `consumed_samples`
remains step × batch, the learning rate follows the step, and what is passed over is never trained
on. A checkpoint follows at once, so that a run that ends there goes on alike.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from llm_pretrain.checkpoint.directory import checkpoints_in, step_of
from llm_pretrain.config.fault_arguments import Policy
from llm_pretrain.config.training_arguments import TrainingArguments

Kind = Literal["good", "spike", "not_finite"]

LEAST_DEVIATION = {"loss": 0.01, "norm": 0.1}
"""Shares of the mean that a deviation counts as at least.

How much the loss of a batch varies falls with the root of its tokens: with 4 million it is a
thousandth, and six of those are no spike to anybody. Below a hundredth a deviation says how large
the batch is, not how sound the run. Norms of gradients vary by a tenth to a sixth in sound runs.
"""


class UnstableRunError(ArithmeticError):
    """The run has left its course and ends.

    Args:
        kind: "spike", "not finite" or "diverged", for the summary.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


@dataclass(frozen=True)
class Step:
    """What a step is judged by."""

    number: int
    loss: float
    norm: float
    """Of the gradient, before clipping."""
    samples: tuple[int, int]
    """The first and the last."""


@dataclass(frozen=True)
class Decision:
    """What is done about a step, and why."""

    action: Literal["apply", "skip", "rewind"]
    kind: Kind = "good"
    text: str = ""
    """What is wrong with the step, in one sentence."""
    figures: Mapping[str, float | None] = field(default_factory=dict)
    """For the log."""


class Window:
    """The last values of a curve, and how far a new one lies above them.

    Args:
        size: how many count.
        least_deviation: as a share of the mean.
    """

    def __init__(self, size: int, least_deviation: float) -> None:
        self.values: deque[float] = deque(maxlen=size)
        self._least_deviation = least_deviation

    def mean(self) -> float:
        # Of exact sums, so that the values decide alone, not the way they came in.
        return math.fsum(self.values) / len(self.values)

    def deviations_above(self, value: float) -> float:
        """How many deviations `value` lies above the mean."""
        mean = self.mean()
        variance = math.fsum((each - mean) ** 2 for each in self.values) / len(self.values)
        deviation = max(math.sqrt(variance), self._least_deviation * abs(mean))
        return (value - mean) / deviation if deviation else 0.0


@dataclass
class Course:
    """What is remembered of a run besides its windows; stored in checkpoints."""

    first_loss: float | None = None
    """The loss of the first step: of the weights that the run began with."""
    steps_above: int = 0
    """Steps in a row with a loss above that, up to now."""
    last_step_below: int = 0
    """The last step with a loss that was not above it."""
    spikes_in_a_row: int = 0


class Stability:
    """Judges the steps of a run one after another, and says what is done about them."""

    def __init__(self, training: TrainingArguments) -> None:
        self.training = training
        self.losses = Window(training.spike_window, LEAST_DEVIATION["loss"])
        self.norms = Window(training.spike_window, LEAST_DEVIATION["norm"])
        self.course = Course()
        self.intervals: list[list[int]] = []
        """[first, last] of the steps that were passed over by going back."""
        self.rewound_to: list[int] = []
        """The steps of the checkpoints that the run went back to."""

    @property
    def fewest_steps(self) -> int:
        """Good steps that it takes for a verdict."""
        return self.training.spike_window // 2

    def decide(self, step: Step) -> Decision:
        """What is done about a step whose weights have not changed yet.

        Raises:
            UnstableRunError: the run ends with it.
        """
        kind, above = self._judge(step)
        self._compare_with_first(step)
        if kind == "good":
            self.losses.values.append(step.loss)
            self.norms.values.append(step.norm)
            self.course.spikes_in_a_row = 0
            return Decision("apply")
        policy = self.training.on_spike if kind == "spike" else self.training.on_nan
        text = self._sentence(kind, step, above)
        self._stop_by(policy, kind, step, text)
        figures = self._figures(step, above)
        if kind == "spike":
            text += self._count_spike()
        return Decision(_action(policy, kind), kind, text, figures)

    def _judge(self, step: Step) -> tuple[Kind, dict[str, float]]:
        """The verdict, and the deviations above their means by name, where they are known."""
        if not (math.isfinite(step.loss) and math.isfinite(step.norm)):
            return "not_finite", {}
        if len(self.losses.values) < self.fewest_steps:
            return "good", {}
        above = {
            "loss": self.losses.deviations_above(step.loss),
            "norm": self.norms.deviations_above(step.norm),
        }
        is_spike = max(above.values()) >= self.training.spike_threshold
        return ("spike" if is_spike else "good"), above

    def _compare_with_first(self, step: Step) -> None:
        """Count the steps above the first loss.

        Raises:
            UnstableRunError: they are too many.
        """
        course, limit = self.course, self.training.diverged_steps
        if course.first_loss is None and math.isfinite(step.loss):
            course.first_loss = step.loss
        if course.first_loss is not None and step.loss <= course.first_loss:
            course.steps_above, course.last_step_below = 0, step.number
            return
        course.steps_above += 1
        if not 0 < limit <= course.steps_above:
            return
        good = self._last_good()
        advice = f"resume from {good}" if good else "begin anew"
        raise UnstableRunError(
            "diverged",
            f"The run has diverged: {course.steps_above} steps in a row, up to step {step.number}, "
            f"had a loss above the first one of {course.first_loss or math.nan:.4g} "
            f"(diverged_steps); it is {step.loss:.4g} now. No final model is written. To go on, "
            f"{advice} with a lower learning_rate or a longer warm-up.",
        )

    def _stop_by(self, policy: Policy, kind: Kind, step: Step, text: str) -> None:
        """End the run where its policy says so.

        Raises:
            UnstableRunError: it does.
        """
        is_spent = policy == "rewind" and len(self.rewound_to) >= self.training.max_rewinds
        if policy != "stop" and not is_spent:
            return
        key = "on_spike" if kind == "spike" else "on_nan"
        reason = f"{key} is {policy}"
        if is_spent:
            times = "once" if self.training.max_rewinds == 1 else f"{len(self.rewound_to)} times"
            reason = f"the run has gone back {times} before (max_rewinds)"
        intervals = self.all_passed_over([step.number, step.number])
        raise UnstableRunError(
            kind.replace("_", " "),
            f"{text} The run stops: {reason}. No weight has been changed by this step and nothing "
            "saved since the last checkpoint. To pass over this data, resume with "
            f'"skip_data_intervals": {intervals}; else lower learning_rate, or let {key} be '
            "skip_update.",
        )

    def _count_spike(self) -> str:
        """Begin the window anew where spikes are a new level; a sentence if they are."""
        self.course.spikes_in_a_row += 1
        if self.course.spikes_in_a_row < self.fewest_steps:
            return ""
        self.course.spikes_in_a_row = 0
        for window in (self.losses, self.norms):
            window.values.clear()
        return f" After {self.fewest_steps} in a row this is the new level."

    def _sentence(self, kind: Kind, step: Step, above: Mapping[str, float]) -> str:
        first, last = step.samples
        samples = f"samples {first} to {last}."
        if kind == "not_finite":
            return (
                f"Not finite at step {step.number}: loss {step.loss:.4g}, gradient norm "
                f"{step.norm:.4g}; {samples}"
            )
        curves = {
            "loss": ("loss", step.loss, self.losses.mean()),
            "norm": ("gradient norm", step.norm, self.norms.mean()),
        }
        leaps = [
            f"{name} {value:.4g} is {above[key]:.3g} deviations above {mean:.4g}"
            for key, (name, value, mean) in curves.items()
            if above[key] >= self.training.spike_threshold
        ]
        return f"Spike at step {step.number}: {', '.join(leaps)}; {samples}"

    def _figures(self, step: Step, above: Mapping[str, float]) -> dict[str, float | None]:
        return {
            "loss": step.loss,
            "loss_mean": self.losses.mean() if self.losses.values else None,
            "loss_deviations": above.get("loss"),
            "gradient_norm": step.norm,
            "norm_mean": self.norms.mean() if self.norms.values else None,
            "norm_deviations": above.get("norm"),
            "first_sample": step.samples[0],
            "last_sample": step.samples[1],
        }

    def all_passed_over(self, *more: list[int]) -> list[list[int]]:
        """All steps that are passed over, by the configuration, by going back and by `more`: what
        to write into a configuration as `skip_data_intervals`."""
        given = map(list, self.training.skip_data_intervals or ())
        return _joined([*given, *self.intervals, *more])

    def go_back(self, state: Mapping[str, Any] | None, checkpoint_step: int, step: int) -> None:
        """Take up the state of a checkpoint, and note that the steps since are passed over."""
        intervals, rewound_to = self.intervals, self.rewound_to
        self.restore(state)
        self.intervals = _joined([*intervals, [checkpoint_step + 1, step]])
        self.rewound_to = [*rewound_to, checkpoint_step]

    def spared(self) -> set[int]:
        """Steps of checkpoints that are not removed: those that the run went back to, and while the
        loss is above the first the last one from before that."""
        good = self._last_good()
        return {*self.rewound_to, *([] if good is None else [step_of(good)])}

    def _last_good(self) -> Path | None:
        """The last checkpoint from before the loss rose above the first; None while it has not."""
        if not self.course.steps_above:
            return None
        below = self.course.last_step_below
        found = [
            path for path in checkpoints_in(self.training.output_dir) if step_of(path) <= below
        ]
        return found[-1] if found else None

    def state(self) -> dict[str, Any]:
        """For a checkpoint: of numbers and lists alone, which JSON keeps exactly."""
        return {
            "losses": list(self.losses.values),
            "norms": list(self.norms.values),
            **asdict(self.course),
            "skip_data_intervals": self.intervals,
            "rewound_to": self.rewound_to,
        }

    def restore(self, state: Mapping[str, Any] | None) -> None:
        """Take up the state of a checkpoint; None of one of an older version, which has none."""
        state = state or {}
        for window, name in ((self.losses, "losses"), (self.norms, "norms")):
            window.values.clear()
            window.values.extend(state.get(name, ()))
        self.course = Course(**{name: state[name] for name in asdict(Course()) if name in state})
        self.intervals = [list(interval) for interval in state.get("skip_data_intervals", ())]
        self.rewound_to = list(state.get("rewound_to", ()))


def _action(policy: Policy, kind: Kind) -> Literal["apply", "skip", "rewind"]:
    if policy == "rewind":
        return "rewind"
    # A gradient that is no number would make all weights such.
    return "apply" if policy == "warn" and kind == "spike" else "skip"


def _joined(intervals: Iterable[list[int]]) -> list[list[int]]:
    """Intervals in order; those that touch are one."""
    joined: list[list[int]] = []
    for first, last in sorted(intervals):
        if joined and first <= joined[-1][1] + 1:
            joined[-1][1] = max(joined[-1][1], last)
        else:
            joined.append([first, last])
    return joined
