"""The published tensors that a model's parameters are made of.

A parameter is one tensor of this rank. It may be a part of a published tensor (tensor parallelism
splits it), or hold several of them side by side (fused query, key and value). A `Piece` says which
published tensor stands where. Initial values, checkpoints and conversions speak of pieces alone, so
they are the same whatever the layout and whatever is fused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import paddle
from paddle import nn

from llm_pretrain.parallel.comm import topology


@dataclass(frozen=True)
class Normal:
    """Values drawn from a normal distribution around zero."""

    std: float

    def scaled(self, factor: float) -> Normal:
        return Normal(self.std * factor)

    def values(self, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
        values = generator.standard_normal(shape, dtype=np.float32)
        values *= np.float32(self.std)
        return values


@dataclass(frozen=True)
class Constant:
    """The same value everywhere."""

    value: float

    def scaled(self, factor: float) -> Constant:
        return Constant(self.value * factor)

    def values(self, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
        return np.full(shape, self.value, dtype=np.float32)


@dataclass(frozen=True)
class Piece:
    """One published tensor and where this rank's part of it stands in a parameter."""

    name: str
    """Canonical name, such as "layers.0.attention.query.weight"."""
    shape: tuple[int, ...]
    """Shape of the whole tensor; weights of linear layers are [in, out]."""
    axis: int | None
    """The axis that the tensor-parallel group splits; None: every rank holds the whole.

    Shares are equal but for the last ranks', which may be smaller or empty; there the parameter
    ends in padding.
    """
    offset: int = 0
    """Where this rank's part begins in the parameter, along `axis`."""
    initializer: Normal | Constant = Constant(0.0)

    def scaled(self, factor: float) -> Piece:
        """The same with initial values so many times as large."""
        return replace(self, initializer=self.initializer.scaled(factor))

    def block(self, rank: int, degree: int) -> tuple[slice, ...]:
        """The part of the whole tensor that `rank` of `degree` tensor-parallel ranks holds."""
        whole = tuple(slice(0, size) for size in self.shape)
        if self.axis is None:
            return whole
        size = self.shape[self.axis]
        share = self.share(degree)
        split = slice(min(rank * share, size), min((rank + 1) * share, size))
        return (*whole[: self.axis], split, *whole[self.axis + 1 :])

    def share(self, degree: int) -> int:
        """What a parameter holds of the axis that is split, padding included."""
        assert self.axis is not None
        return -(-self.shape[self.axis] // degree)

    def region(self, rank: int, degree: int) -> tuple[slice, ...]:
        """Where the part stands in the parameter that holds it."""
        region = [slice(0, size) for size in self.shape]
        if self.axis is not None:
            part = self.block(rank, degree)[self.axis]
            region[self.axis] = slice(self.offset, self.offset + part.stop - part.start)
        return tuple(region)


def named_pieces(model: nn.Layer) -> Iterator[tuple[paddle.Tensor, Piece]]:
    """Every parameter of `model` with each of its pieces, under canonical names.

    `model` is anything that holds model pieces (layers with a `prefix`): a whole decoder or the
    stage of a pipeline. A tied parameter appears once, where it was first met.
    """
    seen: set[int] = set()
    for part in (layer for layer in model.sublayers(include_self=True) if hasattr(layer, "prefix")):
        for path, layer in part.named_sublayers(include_self=True):
            parent = path.rpartition(".")[0]
            for name, parameter in layer.named_parameters(include_sublayers=False):
                if id(parameter) in seen:
                    continue
                seen.add(id(parameter))
                if hasattr(parameter, "pieces"):
                    scope = part.prefix + (parent and parent + ".")
                    for piece in parameter.pieces:
                        yield parameter, replace(piece, name=scope + piece.name)
                else:
                    own = ".".join(filter(None, (path, name)))
                    yield (
                        parameter,
                        Piece(
                            part.prefix + own,
                            tuple(parameter.shape),
                            None,
                            initializer=getattr(parameter, "initializer", Constant(0.0)),
                        ),
                    )


def initial_values(piece: Piece, seed: int) -> np.ndarray:
    """The whole tensor's initial values, float32: a function of the seed and the name alone."""
    digest = hashlib.sha256(f"{seed}/{piece.name}".encode()).digest()
    generator = np.random.Generator(np.random.Philox(int.from_bytes(digest[:16], "little")))
    return piece.initializer.values(piece.shape, generator)


def initialize(model: nn.Layer, seed: int) -> None:
    """Set every parameter of `model` to its initial values, the same in every layout."""
    fill(model, lambda piece: local_initial_values(piece, seed))


def local_initial_values(piece: Piece, seed: int) -> np.ndarray:
    """This rank's part of the initial values."""
    return initial_values(piece, seed)[local_block(piece)]


def local_block(piece: Piece) -> tuple[slice, ...]:
    """The part of the whole tensor that this rank holds."""
    here = topology.current()
    return piece.block(here.tensor_rank, here.degrees.tensor)


def local_region(piece: Piece) -> tuple[slice, ...]:
    """Where that part stands in the parameter."""
    here = topology.current()
    return piece.region(here.tensor_rank, here.degrees.tensor)


def fill(model: nn.Layer, local_part: Callable[[Piece], np.ndarray]) -> None:
    """Set every parameter from `local_part(piece)`, a float32 or equally typed array."""
    for parameter, pieces in grouped_pieces(model):
        values = assemble(pieces, tuple(parameter.shape), local_part)
        with paddle.no_grad():
            parameter.set_value(paddle.to_tensor(values).astype(parameter.dtype))


def assemble(
    pieces: list[Piece], shape: tuple[int, ...], local_part: Callable[[Piece], np.ndarray]
) -> np.ndarray:
    """The values of the parameter of `shape` that holds `pieces`, from this rank's part of each.

    Padding is zero.
    """
    parts = [local_part(piece) for piece in pieces]
    if len(parts) == 1 and parts[0].shape == shape:
        return np.ascontiguousarray(parts[0])
    values = np.zeros(shape, dtype=parts[0].dtype)
    for piece, part in zip(pieces, parts, strict=True):
        values[local_region(piece)] = part
    return values


def grouped_pieces(model: nn.Layer) -> Iterator[tuple[paddle.Tensor, list[Piece]]]:
    """Every parameter of `model` with the list of its pieces."""
    grouped: dict[int, tuple[paddle.Tensor, list[Piece]]] = {}
    for parameter, piece in named_pieces(model):
        grouped.setdefault(id(parameter), (parameter, []))[1].append(piece)
    yield from grouped.values()
