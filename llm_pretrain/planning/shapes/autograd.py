"""Paddle's eager automatic differentiation, as far as memory sees it.

An operator leaves a node that keeps what its gradient needs. The backward pass takes nodes first
in, first out, accumulations before all others; when a node has run it forgets what it kept. Where
two gradients of one tensor meet, the second is added to the first in place.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ContextDecorator, contextmanager
from typing import Any

from llm_pretrain.planning.shapes.storage import recorder
from llm_pretrain.planning.shapes.tensor import Tensor, zeros_of

Gradients = Sequence[Tensor | None]
Backward = Callable[[list[Any], list[Any]], Gradients]


class _Mode:
    def __init__(self) -> None:
        self.is_recording = True
        self.hooks: list[tuple[Callable, Callable]] = []


mode = _Mode()


class set_grad_enabled(ContextDecorator):  # noqa: N801 (Paddle's name)
    """Whether operators leave nodes, within the block or the function."""

    def __init__(self, is_enabled: bool) -> None:
        self.is_enabled = is_enabled
        self.before: list[bool] = []

    def __enter__(self) -> None:
        self.before.append(mode.is_recording)
        mode.is_recording = self.is_enabled

    def __exit__(self, *_: object) -> None:
        mode.is_recording = self.before.pop()


class no_grad(set_grad_enabled):  # noqa: N801 (Paddle's name)
    def __init__(self) -> None:
        super().__init__(False)


@contextmanager
def saved_tensors_hooks(pack: Callable, unpack: Callable) -> Any:
    """What nodes keep within the block goes through `pack`, and back through `unpack`."""
    mode.hooks.append((pack, unpack))
    try:
        yield
    finally:
        mode.hooks.pop()


class Saved:
    """What a node keeps: a tensor's memory, not the tensor, which may refer to the node."""

    __slots__ = ("kept", "unpack")

    def __init__(self, tensor: Tensor) -> None:
        self.kept: Any = tensor.impl
        self.unpack: Callable | None = None
        if mode.hooks:
            pack, self.unpack = mode.hooks[-1]
            self.kept = pack(tensor)

    def tensor(self) -> Tensor:
        return Tensor(self.kept) if self.unpack is None else self.unpack(self.kept)


class Node:
    """The gradient of one operator.

    Attributes:
        edges: of each input the node that takes its gradient, and the place there; None for none.
        hooks: called with the gradient of an output, by its place.
    """

    def __init__(self, name: str, inputs: Sequence[Tensor | None], backward: Backward) -> None:
        self.name = name
        self.backward = backward
        self.saved: list[Any] = []
        self.edges = [_edge_of(x) for x in inputs]
        self.outputs: list[tuple[list[int], Any]] = []
        self.hooks: dict[int, list[Callable]] = {}

    def attach(self, outputs: Sequence[Tensor]) -> None:
        self.outputs = [(y.shape, y.dtype) for y in outputs]
        for place, y in enumerate(outputs):
            y.node, y.place_in_node = self, place
            y.stop_gradient = False

    def run(self, gradients: list[Tensor | None]) -> Gradients:
        for place, hooks in self.hooks.items():
            for hook in hooks:
                hook(gradients[place])
        saved = [each.tensor() if isinstance(each, Saved) else each for each in self.saved]
        return self.backward(saved, gradients)

    def forget(self) -> None:
        self.saved = []
        self.backward = _has_run


def _has_run(saved: list[Any], gradients: list[Tensor | None]) -> Gradients:
    raise RuntimeError("a second backward pass through the same operators")


class Accumulation:
    """Where the gradients of a leaf end."""

    edges: tuple[()] = ()

    def __init__(self, leaf: Tensor) -> None:
        self.leaf = weakref.ref(leaf)
        self.outputs = [(leaf.shape, leaf.dtype)]
        self.hooks: list[Callable] = []

    def run(self, gradients: list[Tensor | None]) -> Gradients:
        gradient, leaf = gradients[0], self.leaf()
        gradients.clear()
        if leaf is not None and gradient is not None:
            if leaf.grad is None or leaf.grad.impl.storage is None:
                leaf.grad = gradient
            else:
                leaf.grad.read_with(gradient)
        for hook in self.hooks:
            hook(gradient)
        return ()

    def forget(self) -> None:
        """Nothing is kept."""


def accumulation_of(leaf: Tensor) -> Accumulation:
    if leaf.accumulation is None:
        leaf.accumulation = Accumulation(leaf)
    return leaf.accumulation


def _edge_of(x: Tensor | None) -> tuple[Any, int] | None:
    if x is None or x.stop_gradient:
        return None
    return (accumulation_of(x), 0) if x.node is None else (x.node, x.place_in_node)


def record(
    name: str,
    inputs: Sequence[Tensor | None],
    outputs: Sequence[Tensor],
    backward: Backward | None,
    saved: Sequence[Tensor] = (),
) -> None:
    """Leave a node that keeps `saved`, if any input is trained."""
    if not mode.is_recording or all(x is None or x.stop_gradient for x in inputs):
        return
    if backward is None:
        raise NotImplementedError(f"the paddle of shapes knows no gradient of {name}")
    node = Node(name, inputs, backward)
    node.saved = [Saved(x) for x in saved]
    node.attach(outputs)


def backward(tensors: list[Tensor], grad_tensors: list[Tensor | None] | None = None) -> None:
    """paddle.autograd.backward."""
    holders: dict[Any, list[Tensor | None]] = {}
    ready = deque(
        _begin(tensor, gradient, holders)
        for tensor, gradient in zip(tensors, grad_tensors or [None] * len(tensors), strict=True)
    )
    degrees = _in_degrees(ready)
    with no_grad():
        while ready:
            _run(ready.popleft(), holders, degrees, ready)


def _begin(tensor: Tensor, gradient: Tensor | None, holders: dict[Any, Any]) -> Any:
    """The node where the pass begins, with its gradient in `holders`."""
    node, place = _edge_of(tensor) or (None, 0)
    if node is None:
        raise RuntimeError("a backward pass of what has no gradient")
    holder = holders.setdefault(node, [None] * len(node.outputs))
    holder[place] = zeros_of(tensor.shape, tensor.dtype) if gradient is None else gradient
    return node


def _run(node: Any, holders: dict[Any, Any], degrees: dict[Any, int], ready: deque[Any]) -> None:
    holder = holders.pop(node)
    results = node.run(holder)
    node.forget()
    # A PyLayer may leave out the gradients of inputs that get none.
    edges = node.edges
    if len(results) != len(edges):
        edges = [edge for edge in edges if edge is not None]
    for edge, gradient in zip(edges, results, strict=True):
        if edge is None:
            continue
        following, place = edge
        target = holders.setdefault(following, [None] * len(following.outputs))
        if gradient is not None and gradient.impl.storage is not None:
            if target[place] is None:
                target[place] = gradient
            else:
                target[place].read_with(gradient)
        degrees[following] -= 1
        if degrees[following] == 0:
            if isinstance(following, Accumulation):
                ready.appendleft(following)
            else:
                ready.append(following)


def _in_degrees(begin: deque[Any]) -> dict[Any, int]:
    degrees: dict[Any, int] = {}
    seen, waiting = set(begin), deque(begin)
    while waiting:
        for edge in waiting.popleft().edges:
            if edge is not None:
                degrees[edge[0]] = degrees.get(edge[0], 0) + 1
                if edge[0] not in seen:
                    seen.add(edge[0])
                    waiting.append(edge[0])
    return degrees


class Context:
    """The first argument of a PyLayer's functions."""

    def __init__(self) -> None:
        self._kept: tuple[Any, ...] = ()
        self._unpack: Callable | None = None

    def save_for_backward(self, *tensors: Any) -> None:
        if mode.hooks:
            pack, self._unpack = mode.hooks[-1]
            tensors = tuple(pack(x) if isinstance(x, Tensor) else x for x in tensors)
        self._kept = tensors

    def saved_tensor(self) -> tuple[Any, ...]:
        if self._unpack is None:
            return self._kept
        return tuple(self._unpack(x) for x in self._kept)


class PyLayer:
    """An operator by two functions in Python."""

    @classmethod
    def apply(cls, *arguments: Any, **options: Any) -> Any:
        context = Context()
        with no_grad():
            results = cls.forward(context, *arguments, **options)  # type: ignore[attr-defined]
        inputs = [x for x in arguments if isinstance(x, Tensor)]
        if mode.is_recording and any(not x.stop_gradient for x in inputs):
            outputs = [results] if isinstance(results, Tensor) else list(results)
            node = Node(cls.__qualname__, inputs, cls._run_backward)
            node.saved = [context]
            node.attach([y for y in outputs if isinstance(y, Tensor)])
            node.saved.append(node.outputs)
        return results

    @classmethod
    def _run_backward(cls, saved: list[Any], gradients: list[Tensor | None]) -> Gradients:
        context, outputs = saved
        given = [
            zeros_of(shape, dtype) if gradient is None else gradient
            for gradient, (shape, dtype) in zip(gradients, outputs, strict=True)
        ]
        results = cls.backward(context, *given)  # type: ignore[attr-defined]
        context._kept = ()
        return results if isinstance(results, (tuple, list)) else [results]


class _Holder:
    """Stands in the graph for a tensor that is computed again."""


def recompute(
    function: Callable, *arguments: Any, use_reentrant: bool = True, **options: Any
) -> Any:
    """fleet.utils.recompute without re-entrance: nodes keep nothing, and what they want is computed
    again, all at once, when the first of them runs."""
    if use_reentrant:
        raise NotImplementedError("the paddle of shapes knows no re-entrant recompute")
    storage: weakref.WeakKeyDictionary[_Holder, Tensor] = weakref.WeakKeyDictionary()
    holders: list[weakref.ref[_Holder]] = []

    def pack(_: Tensor) -> _Holder:
        holder = _Holder()
        holders.append(weakref.ref(holder))
        return holder

    def unpack(holder: _Holder) -> Tensor:
        if not storage:
            waiting = iter(holders)

            def keep(x: Tensor) -> None:
                wanted = next(waiting)()
                if wanted is not None:
                    storage[wanted] = x if x.grad is not None else Tensor(x.impl.copy())

            now = recorder.last
            recorder.mark("recompute", now.micro_batch, now.chunk, now.block)
            with set_grad_enabled(True), saved_tensors_hooks(keep, keep):
                function(*arguments, **options)
            recorder.mark(now.phase, now.micro_batch, now.chunk, now.block)
        return storage.pop(holder)

    with saved_tensors_hooks(pack, unpack):
        return function(*arguments, **options)
