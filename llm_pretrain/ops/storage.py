"""Views and storage of tensors, by private calls of Paddle, which stand in this file alone.

Paddle's public calls copy what is sliced, and can neither free a tensor's memory while the autograd
graph refers to the tensor, nor give it another's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from paddle import Tensor


def view(flat: Tensor, begin: int, end: int, shape: Sequence[int] | None = None) -> Tensor:
    """The elements [begin, end) along the first axis, in `shape`; it shares their memory."""
    part = flat._slice(begin, end)
    if shape is not None:
        part.get_tensor()._set_dims(list(shape))
    return part


def share(source: Tensor, target: Tensor) -> None:
    """Make `target`, of the same shape and dtype, a view of `source`."""
    source._share_buffer_to(target)


def free(tensor: Tensor) -> None:
    """Give back a tensor's memory; who refers to the tensor finds what is next put into it."""
    tensor._clear_data()


def has_values(tensor: Tensor) -> bool:
    """Whether a tensor has memory."""
    return bool(tensor._is_initialized())


def call_with_gradient(parameter: Tensor, hook: Callable[[Tensor | None], None]) -> None:
    """Call `hook` with the gradient of each backward pass; public hooks would keep it besides."""
    parameter._register_grad_hook(hook)
