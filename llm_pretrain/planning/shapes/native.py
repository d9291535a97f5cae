"""The library of operators in C++ (external_ops/csrc/cpu): what each call computes, undone."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

from llm_pretrain import machine
from llm_pretrain.planning.shapes.storage import recorder
from llm_pretrain.planning.shapes.tensor import UnknownToShapesError
from llm_pretrain.planning.trace import AttentionProduct, Product, Traffic

_DTYPES = {0: ("float32", 4), 1: ("bfloat16", 2)}
"""llm_dtype of llm_ops_cpu.h: name and bytes."""


class NativeLibrary:
    """Answers to the names of the library's functions."""

    def __getattr__(self, name: str) -> Callable[..., int]:
        function = _FUNCTIONS.get(name.removeprefix("llm_cpu_"))
        if function is None:
            raise UnknownToShapesError(name)

        def call(*arguments: Any) -> int:
            function(*arguments)
            return 0

        setattr(self, name, call)
        return call


def _moved(name: str, size: int) -> None:
    recorder.events.append(Traffic(name, size))


def _matmul(
    m: int, n: int, k: int, a: Any, turned: int, b: Any, order: int, dtype: int, *_: Any
) -> None:
    recorder.events.append(Product(m, k, n, _DTYPES[dtype][0]))


def _attention(
    B: int, S: int, N: int, K: int, D: int, q: Any, k: Any, v: Any, dtype: int, *_: Any
) -> None:
    recorder.events.append(AttentionProduct(B, N, K, S, S, D, _DTYPES[dtype][0], True))


def _attention_backward(
    B: int, S: int, N: int, K: int, D: int, q: Any, k: Any, v: Any, dtype: int, *_: Any
) -> None:
    event = AttentionProduct(B, N, K, S, S, D, _DTYPES[dtype][0], True, is_backward=True)
    recorder.events.append(event)


def _log_sums(R: int, H: int, V: int, x: Any, dtype: int, *_: Any) -> None:
    recorder.events.append(Product(R, H, V, _DTYPES[dtype][0]))
    _moved("logits", 8 * R * V)  # slice by slice: written and read


def _log_sums_backward(R: int, H: int, V: int, x: Any, dtype: int, *others: Any) -> None:
    name, dweight = _DTYPES[dtype][0], others[-2]
    recorder.events += [Product(R, H, V, name), Product(R, V, H, name)]
    _moved("logits and their gradient", 16 * R * V)
    if dweight is not None:
        recorder.events.append(Product(H, R, V, name))


def _packed_bytes(m: int, n: int, k: int, size: int) -> None:
    """oneDNN's order on a processor with matrix tiles: 64 columns by 32 rows at a time; nothing is
    packed where this machine has no products of bfloat16."""
    packed = 2 * (-(-n // 64) * 64) * (-(-k // 32) * 32) if _multiplies_bfloat16() else 0
    ctypes.c_int64.from_address(size).value = packed


@cache
def _multiplies_bfloat16() -> bool:
    return machine.multiplies_bfloat16(machine.processors_here())


def _norm(name: str, operands: int) -> Callable[..., None]:
    def function(rows: int, width: int, *_: Any) -> None:
        _moved(name, 4 * rows * width * operands)

    return function


def _each(name: str, operands: int) -> Callable[..., None]:
    def function(count: int, *_: Any) -> None:
        _moved(name, 4 * count * operands)

    return function


def _rotary(
    B: int, S: int, N: int, D: int, R: int, spans: int, x: Any, dtype: int, *_: Any
) -> None:
    _moved("rotary", 2 * B * S * N * D * _DTYPES[dtype][1])


def _embedding_backward(ids: int, V: int, H: int, *_: Any) -> None:
    _moved("embedding gradient", 8 * ids * H)


def _pack(m: int, n: int, k: int, *_: Any) -> None:
    _moved("pack", 4 * n * k)


def _give_back_memory() -> None:
    """Every tensor's memory is Paddle's here (`_LEAST` of `ops.native.library`)."""


_FUNCTIONS: dict[str, Callable[..., None]] = {
    "give_back_memory": _give_back_memory,
    "matmul": _matmul,
    "flash_attention": _attention,
    "flash_attention_backward": _attention_backward,
    "linear_log_sums": _log_sums,
    "linear_cross_entropy_backward": _log_sums_backward,
    "packed_bytes": _packed_bytes,
    "pack": _pack,
    "rms_norm": _norm("rms_norm", 2),
    "layer_norm": _norm("layer_norm", 2),
    "rms_norm_backward": _norm("rms_norm gradient", 3),
    "layer_norm_backward": _norm("layer_norm gradient", 3),
    "add": _each("add", 3),
    "cast": _each("cast", 2),
    "activation": _each("activation", 3),
    "activation_backward": _each("activation gradient", 5),
    "rotary": _rotary,
    "embedding_backward": _embedding_backward,
    "adamw": _each("adamw", 7),
    "sum_of_squares": _each("sum_of_squares", 1),
}
