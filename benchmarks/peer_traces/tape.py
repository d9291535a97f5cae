"""A program's step as a trace, from its forward pass alone.

A tape does what eager frameworks do: an operator allocates its result and keeps what its backward
pass reads; a value lives as long as somebody holds it. Here values are Python objects, so a model
of a program's forward function, with its local variables, frees what that function frees. Backward
passes and recomputation follow from the operators that were recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from llm_pretrain.planning.trace import (
    Allocation,
    Event,
    Mark,
    Part,
    Phase,
    Product,
    Release,
    Traffic,
)


class Value:
    """A tensor's memory; it is given back when the last holder lets it go."""

    def __init__(self, tape: Tape, size: int, part: Part) -> None:
        self.tape = tape
        self.size = size
        self.number = tape.new_number()
        self.needs_gradient = False
        tape.events.append(Allocation(self.number, size, part))

    def __del__(self) -> None:
        self.tape.events.append(Release(self.number))


@dataclass(frozen=True)
class Weight:
    """A parameter of this rank."""

    name: str
    elements: int


Costs = Sequence[Event]
Backward = Callable[[Value], None]
ReceivesGradient = Callable[[Weight, Value], None]


class Tape:
    """Records operators, and plays their backward passes.

    Attributes:
        events: the trace so far.
        part: what new values are for.
        receives_gradient: what the program does with a weight's gradient, once there is one.
        has_gradient_tensors: whether a weight's gradient is a tensor of its own, before what the
            program does with it.
        width: bytes of an element of weights and activations.
        dtype: its name.
    """

    def __init__(self, receives_gradient: ReceivesGradient, dtype: str) -> None:
        self.events: list[Event] = []
        self.part: Part = "activations"
        self.receives_gradient = receives_gradient
        self.dtype = dtype
        self.width = 2
        self.has_gradient_tensors = True
        self._numbers = 0
        self._nodes: list[tuple[int, Backward]] = []
        self._gradients: dict[int, Value] = {}
        self._is_recording = True

    def new_number(self) -> int:
        """A name for an allocation, or for a message."""
        self._numbers += 1
        return self._numbers

    def mark(self, phase: Phase, micro_batch: int | None = None, chunk: int | None = None) -> None:
        """Begin a phase."""
        self.events.append(Mark(phase, micro_batch, chunk))

    def value(self, size: float, part: Part | None = None) -> Value:
        """A new tensor of `size` bytes."""
        return Value(self, int(size), part or self.part)

    @contextmanager
    def of(self, part: Part) -> Iterator[None]:
        """New values are for `part`."""
        before, self.part = self.part, part
        yield
        self.part = before

    def apply(
        self,
        inputs: Iterable[Value],
        size: float,
        *,
        saves: Iterable[Value] = (),
        saves_output: bool = False,
        extra: float = 0,
        workspace: float = 0,
        forward: Costs = (),
        backward: Costs = (),
        weight: Weight | None = None,
    ) -> Value:
        """The result of an operator, `size` bytes.

        Args:
            saves: which inputs the backward pass reads.
            extra: bytes of what is written for the backward pass alone.
            workspace: bytes that the backward pass needs while it runs.
            weight: a parameter that gets a gradient.
        """
        result = self.value(size)
        kept = [*saves, *([result] if saves_output else [])]
        if extra:
            kept.append(self.value(extra))
        self.events.extend(forward)
        if not self._is_recording:
            return result
        result.needs_gradient = True
        wanted = [(each.number, each.size) for each in inputs if each.needs_gradient]

        def play(gradient: Value) -> None:
            made = [(number, self.value(size)) for number, size in wanted]
            of_weight = None
            if weight is not None and self.has_gradient_tensors:
                of_weight = self.value(weight.elements * self.width, "gradients")
            room = self.value(workspace, "other") if workspace else None
            self.events.extend(backward)
            del room
            kept.clear()
            for number, value in made:
                self.add_gradient(number, value)
            if weight is not None and of_weight is not None:
                self.receives_gradient(weight, of_weight)

        self._nodes.append((result.number, play))
        return result

    def in_place(self, value: Value, *, forward: Costs = (), backward: Costs = ()) -> Value:
        """An operator that writes into its input, both ways, as a collective does."""
        self.events.extend(forward)
        if self._is_recording:
            number = value.number

            def play(gradient: Value) -> None:
                self.events.extend(backward)
                self.add_gradient(number, gradient)

            self._nodes.append((number, play))
        return value

    def checkpoint(self, function: Callable[[Value], Value], value: Value) -> Value:
        """`function` of a value, of which nothing else is kept: it runs again for its gradient."""
        before, self._is_recording = self._is_recording, False
        result = function(value)
        self._is_recording = before
        if not before:
            return result
        result.needs_gradient = True
        kept = [value]

        def play(gradient: Value) -> None:
            place = len(self._nodes)
            again = function(kept[0])
            self._gradients[again.number] = gradient
            del again
            kept.clear()
            self._play_down_to(place)

        self._nodes.append((result.number, play))
        return result

    def take_nodes(self) -> list[tuple[int, Backward]]:
        """What was recorded since the last call: a micro-batch's forward pass."""
        nodes, self._nodes = self._nodes, []
        return nodes

    def play_backward(self, nodes: list[tuple[int, Backward]], gradient: Value) -> Value | None:
        """The backward pass of what `take_nodes` gave, from the gradient of its last result; the
        gradient of its first input, if that needs one."""
        assert not self._nodes
        self._nodes = nodes
        self._gradients[nodes[-1][0]] = gradient
        del gradient
        self._play_down_to(0)
        left = list(self._gradients.values())
        self._gradients.clear()
        return left[0] if left else None

    def add_gradient(self, number: int, gradient: Value) -> None:
        """Add to the gradient of a value; a second one makes a new tensor, as Paddle does it."""
        before = self._gradients.pop(number, None)
        if before is None:
            self._gradients[number] = gradient
            return
        total = self.value(gradient.size)
        self.events.append(Traffic("add", 3 * gradient.size))
        self._gradients[number] = total

    def _play_down_to(self, place: int) -> None:
        while len(self._nodes) > place:
            number, play = self._nodes.pop()
            gradient = self._gradients.pop(number, None)
            if gradient is not None:
                play(gradient)
            del gradient, play


def linear(tape: Tape, value: Value, rows: int, weight: Weight, inner: int, columns: int) -> Value:
    """value [rows, inner] × weight [inner, columns], which reads both again going back."""
    return tape.apply(
        [value],
        rows * columns * tape.width,
        saves=[value],
        weight=weight,
        forward=[Product(rows, inner, columns, tape.dtype)],
        backward=[
            Product(rows, columns, inner, tape.dtype),
            Product(inner, rows, columns, tape.dtype),
        ],
    )


def elementwise(
    tape: Tape,
    name: str,
    inputs: Sequence[Value],
    *,
    size: int | None = None,
    saves: Iterable[Value] = (),
    saves_output: bool = False,
    extra: float = 0,
    backward_reads: int = 0,
    weight: Weight | None = None,
) -> Value:
    """An operator bound by memory: it reads its inputs and writes a result of `size`, by default
    that of its first input; going back it reads the gradient and what it saved, and writes the
    inputs' gradients."""
    size = inputs[0].size if size is None else size
    saved = list(saves)
    read = sum(each.size for each in inputs)
    back = size + sum(each.size for each in saved) + (size if saves_output else 0)
    return tape.apply(
        inputs,
        size,
        saves=saved,
        saves_output=saves_output,
        extra=extra,
        weight=weight,
        forward=[Traffic(name, read + size)],
        backward=[Traffic(f"{name} backward", int(back + read + backward_reads))],
    )
