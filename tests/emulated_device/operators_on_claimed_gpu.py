"""The CUDA operators on a device that claims to be a GPU, beside their references on the CPU.

As a program: `examples` prints, by dtype and operator, how far what the self-test computes is off,
relative to the largest value; `other_stream` uses a tensor on another stream without waiting.
"""

from __future__ import annotations

import json
import sys

import numpy as np

from tests.emulated_device.claimed_gpu import install

DTYPES = ("float32", "bfloat16", "float16")


def examples() -> dict[str, dict[str, float]]:
    """The largest difference by dtype and operator; -1 where the device lacks one of Paddle's
    kernels that the example itself needs."""
    import paddle

    from llm_pretrain.ops import OPERATORS
    from llm_pretrain.ops.operator import CUDA

    found: dict[str, dict[str, float]] = {}
    for dtype in DTYPES:
        for name, operator in OPERATORS.items():
            ours = operator.implementations[CUDA]
            if ours is None or dtype not in getattr(ours, "DTYPES", DTYPES):
                continue
            given = "float32" if operator.is_float32 else dtype
            paddle.device.set_device("gpu:0")
            operator.serve_by(CUDA)
            try:
                actual = operator.example(given)
            except RuntimeError as error:
                if "is not registered" not in str(error):
                    raise
                found.setdefault(dtype, {})[name] = -1.0
                continue
            paddle.device.set_device("cpu")
            operator.serve_by()
            expected = operator.example(given)
            found.setdefault(dtype, {})[name] = max(
                float(np.abs(ours - theirs).max()) / max(float(np.abs(theirs).max()), 1e-3)
                for ours, theirs in zip(actual, expected, strict=True)
            )
    return found


def other_stream() -> None:
    import paddle

    from llm_pretrain.ops.cuda.elementwise import activation

    paddle.device.set_device("gpu:0")
    x = paddle.ones([4, 8])
    with paddle.device.stream_guard(paddle.device.Stream()):
        activation("silu", x)


if __name__ == "__main__":
    install()
    if sys.argv[1] == "examples":
        print(json.dumps(examples()))
    else:
        other_stream()
