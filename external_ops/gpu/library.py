"""The C library of csrc/cuda on PyTorch's tensors, through ctypes."""

from __future__ import annotations

import ctypes
from ctypes import Structure, c_float, c_int, c_int64, c_void_p
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
KINDS = {"silu": 0, "gelu": 1, "gelu_tanh": 2, "relu": 3}


class Matrix(Structure):
    """A tensor [rows, width] whose last dimension is contiguous, or none."""

    _fields_ = (("data", c_void_p), ("stride", c_int64))

    @classmethod
    def of(cls, tensor: Tensor | None) -> Matrix:
        if tensor is None:
            return cls(None, 0)
        assert tensor.ndim == 2
        assert tensor.stride(1) == 1
        return cls(tensor.data_ptr(), tensor.stride(0))


class Heads(Structure):
    """A tensor [batch, length, heads, size] whose last dimension is contiguous."""

    _fields_ = (
        ("data", c_void_p),
        ("batch_stride", c_int64),
        ("position_stride", c_int64),
        ("head_stride", c_int64),
    )

    @classmethod
    def of(cls, tensor: Tensor) -> Heads:
        assert tensor.ndim == 4
        assert tensor.stride(3) == 1
        return cls(tensor.data_ptr(), *tensor.stride()[:3])


class Mask(Structure):
    """slopes float32 [N], prefix_ends and document_starts int64 [B, S]."""

    _fields_ = (("slopes", c_void_p), ("prefix_ends", c_void_p), ("document_starts", c_void_p))

    @classmethod
    def of(cls, *rules: Tensor | None) -> Mask:
        return cls(*(None if rule is None else rule.data_ptr() for rule in rules))


class AdamWTensor(Structure):
    """Addresses of one tensor's arrays."""

    _fields_ = (
        ("count", c_int64),
        ("master", c_void_p),
        ("moment1", c_void_p),
        ("moment2", c_void_p),
        ("gradient", c_void_p),
        ("weights", c_void_p),
        ("weight_decay", c_float),
    )


class OperatorError(RuntimeError):
    """The library refused a call."""


class Library:
    """The functions of llm_ops.h, queued on the current stream of a device.

    Args:
        path: of the shared library.
        device: where its tensors live: "cuda", or "cpu" for the emulation.
    """

    def __init__(self, path: Path, device: str) -> None:
        self._functions = ctypes.CDLL(str(path))
        self._functions.llm_ops_error_string.restype = ctypes.c_char_p
        self._functions.llm_ops_norm_workspace.restype = c_int64
        self.device = device

    def __call__(self, name: str, *arguments: Any) -> None:
        """Call `llm_ops_<name>`; integers are 64 bits wide but those given as `c_int`.

        Raises:
            OperatorError: with what the library says.
        """
        stream = torch.cuda.current_stream().cuda_stream if self.device == "cuda" else 0
        function = getattr(self._functions, f"llm_ops_{name}")
        status = function(*(_c(argument) for argument in arguments), c_void_p(stream))
        if status:
            message = self._functions.llm_ops_error_string(status).decode()
            raise OperatorError(f"llm_ops_{name}: {message}.")

    def norm_workspace(self, rows: int, width: int) -> Tensor:
        """What the backward pass of a norm needs, float32."""
        size = self._functions.llm_ops_norm_workspace(c_int64(rows), c_int64(width))
        return torch.empty(size, device=self.device)


def _c(argument: Any) -> Any:
    """The argument as C gets it."""
    if isinstance(argument, Tensor):
        return c_void_p(argument.data_ptr())
    if isinstance(argument, torch.dtype):
        return c_int(DTYPES[argument])
    if isinstance(argument, int):
        return c_int64(argument)
    if isinstance(argument, float):
        return c_float(argument)
    return c_void_p(None) if argument is None else argument
