"""A tensor with a shape, a dtype and a place in some memory, and without values.

As in Paddle a tensor refers to an `Impl`, which what operators keep shares with it, and an `Impl`
to memory that views share. What computes are the operators of `operators.py`, which become methods
there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from llm_pretrain.planning.shapes.storage import DType, Storage, dtype_of


class UnknownToShapesError(AttributeError, NotImplementedError):
    """Something of Paddle's that this stand-in lacks: nothing is guessed."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the paddle of shapes (llm_pretrain/planning/shapes) knows no {name}")


class Impl:
    """Where a tensor's elements lie; without memory where `storage` is None."""

    __slots__ = ("dtype", "offset", "shape", "storage", "strides")

    def __init__(
        self,
        storage: Storage | None,
        shape: list[int],
        dtype: DType,
        strides: list[int] | None = None,
        offset: int = 0,
    ) -> None:
        self.storage, self.shape, self.dtype = storage, shape, dtype
        self.strides = strides
        """In elements; None is without gaps."""
        self.offset = offset

    def copy(self) -> Impl:
        return Impl(self.storage, self.shape, self.dtype, self.strides, self.offset)

    def _set_dims(self, shape: list[int]) -> None:
        self.shape = list(shape)

    def all_strides(self) -> list[int]:
        return packed_strides(self.shape) if self.strides is None else self.strides


def packed_strides(shape: Sequence[int]) -> list[int]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return strides[::-1]


class Place:
    """A kind of device."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def is_cpu_place(self) -> bool:
        return self.kind == "cpu"

    def is_gpu_place(self) -> bool:
        return self.kind == "gpu"


_OF_THE_PROGRAM = frozenset(
    {"recomputed_operand", "sum_of_gradients", "pieces", "initializer", "is_partial"}
)
"""What the program itself puts on some tensors, and asks others for."""

place = Place("cpu")
"""Of all tensors."""


class Tensor:
    """See the module."""

    def __init__(self, impl: Impl) -> None:
        self.impl = impl
        self.stop_gradient = True
        self.node: Any = None
        self.place_in_node = 0
        self.accumulation: Any = None
        self.grad: Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        if name in _OF_THE_PROGRAM:
            raise AttributeError(name)
        raise UnknownToShapesError(f"Tensor.{name}")

    @property
    def shape(self) -> list[int]:
        return list(self.impl.shape)

    @property
    def dtype(self) -> DType:
        return self.impl.dtype

    @property
    def ndim(self) -> int:
        return len(self.impl.shape)

    @property
    def size(self) -> int:
        return math.prod(self.impl.shape)

    @property
    def bytes(self) -> int:
        impl = self.impl
        return math.prod(impl.shape) * impl.dtype.itemsize

    @property
    def place(self) -> Place:
        return place

    @property
    def is_leaf(self) -> bool:
        return self.node is None

    def __len__(self) -> int:
        return self.impl.shape[0]

    def __bool__(self) -> bool:
        raise UnknownToShapesError("values of tensors")

    def element_size(self) -> int:
        return self.impl.dtype.itemsize

    def is_contiguous(self) -> bool:
        strides = self.impl.strides
        return strides is None or all(
            size == 1 or stride == packed
            for size, stride, packed in zip(
                self.impl.shape, strides, packed_strides(self.impl.shape), strict=True
            )
        )

    def data_ptr(self) -> int:
        assert self.impl.storage is not None, "a tensor whose memory was freed"
        # As far apart as any two tensors are.
        return (self.impl.storage.number << 44) + self.impl.offset * self.impl.dtype.itemsize

    def detach(self) -> Tensor:
        return Tensor(self.impl)

    def get_tensor(self) -> Impl:
        return self.impl

    def _slice(self, begin: int, end: int) -> Tensor:
        impl = self.impl
        step = math.prod(impl.shape[1:])
        shape = [end - begin, *impl.shape[1:]]
        return Tensor(Impl(impl.storage, shape, impl.dtype, None, impl.offset + begin * step))

    def _share_buffer_to(self, target: Tensor) -> None:
        target.impl.storage, target.impl.offset = self.impl.storage, self.impl.offset
        target.impl.strides = None

    def _clear_data(self) -> None:
        self.impl.storage = None

    def _is_initialized(self) -> bool:
        return self.impl.storage is not None

    def _register_grad_hook(self, hook: Callable) -> None:
        from llm_pretrain.planning.shapes.autograd import accumulation_of

        accumulation_of(self).hooks.append(hook)

    def register_hook(self, hook: Callable) -> None:
        assert self.node is not None, "hooks of leaves are other ones"
        self.node.hooks.setdefault(self.place_in_node, []).append(hook)

    def read_with(self, other: Tensor) -> None:
        """A second gradient is added in place."""


class Parameter(Tensor):
    """A tensor that is trained."""

    def __init__(self, impl: Impl) -> None:
        super().__init__(impl)
        self.stop_gradient = False


def new(shape: Sequence[int], dtype: str | DType) -> Tensor:
    """A tensor with memory of its own."""
    kind, sizes = dtype_of(dtype), list(shape)
    return Tensor(Impl(Storage(math.prod(sizes) * kind.itemsize), sizes, kind))


def zeros_of(shape: Sequence[int], dtype: DType) -> Tensor:
    return new(shape, dtype)


def view_of(
    x: Tensor, shape: Sequence[int], strides: Sequence[int] | None = None, offset: int = 0
) -> Tensor:
    """A tensor in the memory of `x`."""
    impl = x.impl
    own = None if strides is None else list(strides)
    return Tensor(Impl(impl.storage, list(shape), impl.dtype, own, impl.offset + offset))
