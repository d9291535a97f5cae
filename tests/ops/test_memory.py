"""Memory of operators' results: the next of a size takes it over; what no step needs goes back."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest

from llm_pretrain.ops.native import library

MIB = 1 << 20


@pytest.fixture(autouse=True)
def _nothing_lies_idle() -> None:
    library.give_back_memory()
    library.give_back_memory()


def resident() -> int:
    """MiB of this process that lie in memory and have no file."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) // 1024


class Idle:
    """Memory that lies idle, by what the process has more than at first."""

    def __init__(self) -> None:
        self.before = resident()

    def is_about(self, mib: int) -> bool:
        return abs(resident() - self.before - mib) <= 12


def filled(size: int) -> paddle.Tensor:
    x = of_mib(size)
    x.fill_(1)
    return x


def of_mib(size: int, dtype: paddle.dtype = paddle.float32) -> paddle.Tensor:
    return library.empty([size, MIB // (4 if dtype == paddle.float32 else 2)], dtype)


@pytest.mark.parametrize("dtype", [paddle.float32, paddle.bfloat16])
def test_it_is_a_tensor_as_any(dtype: paddle.dtype) -> None:
    x = library.empty([3, 700, 1024], dtype)
    assert (x.shape, x.dtype, x.stop_gradient) == ([3, 700, 1024], dtype, True)
    assert x.is_contiguous()
    assert x.data_ptr() % 64 == 0
    x.fill_(2.5)
    assert float((x.astype("float32") * 2).max()) == 5
    assert library.empty_like(x).dtype == dtype


def test_tensors_that_live_share_nothing() -> None:
    tensors = [of_mib(2) for _ in range(5)]
    for number, x in enumerate(tensors):
        x.fill_(number)
    assert [float(x.min()) for x in tensors] == [float(x.max()) for x in tensors] == [0, 1, 2, 3, 4]


def test_memory_lives_as_long_as_a_view_of_it() -> None:
    x = of_mib(2)
    x.fill_(7)
    row = x[1]
    del x
    of_mib(2).fill_(8)
    assert float(row.max()) == 7


def test_the_next_of_its_size_takes_it_over() -> None:
    x = of_mib(2)
    place = x.data_ptr()
    del x
    assert of_mib(2, paddle.bfloat16).data_ptr() == place


def test_what_a_step_needs_stays_and_the_rest_is_given_back() -> None:
    idle = Idle()

    def step() -> None:
        """Two tensors at a time, thrice."""
        for _ in range(3):
            del [filled(32) for _ in range(2)][:]

    del [filled(32) for _ in range(5)][:], [filled(48)][:]
    assert idle.is_about(5 * 32 + 48)
    library.give_back_memory()  # what the step that ends needed is there for the next
    assert idle.is_about(5 * 32 + 48)
    step()
    library.give_back_memory()
    assert idle.is_about(2 * 32)
    step()
    assert idle.is_about(2 * 32)
    library.give_back_memory()
    library.give_back_memory()
    assert idle.is_about(0)


def test_a_step_of_other_sizes_takes_the_memory_of_the_last() -> None:
    idle = Idle()
    del [filled(32) for _ in range(4)][:], [filled(16)][:]
    library.give_back_memory()
    x, y = filled(16), filled(48)  # for which two of the former step's go, and none of this one's
    assert idle.is_about(2 * 32 + 16 + 48)
    del x, y
    assert idle.is_about(2 * 32 + 16 + 48)


SHORT_OF_MEMORY = """
import re, resource
from pathlib import Path
import paddle
from llm_pretrain.ops.native import library

def in_use():
    return int(re.search(r"VmSize:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) << 10

for count in (2, 1):  # 512 MiB, of which the second step needs a half
    library.give_back_memory()
    del [library.empty([64 << 20], paddle.float32) for _ in range(count)][:]
limit = in_use() + (100 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
print(list(library.empty([100 << 20], paddle.float32).shape))
try:
    library.empty([200 << 20], paddle.float32)
except OSError as error:
    print(error.strerror)
library.give_back_memory()
print(float(library.empty([64 << 20], paddle.float32).fill_(2).max()))
"""


def test_where_memory_is_short_all_that_lies_idle_is_given_back() -> None:
    said = subprocess.run(
        [sys.executable, "-c", SHORT_OF_MEMORY], capture_output=True, text=True, check=True
    ).stdout
    assert said.splitlines() == [
        f"[{100 << 20}]",
        "Cannot allocate memory",
        "2.0",
    ]


def test_a_child_process_writes_to_memory_of_its_own() -> None:
    x = of_mib(1)
    x.fill_(3)
    child = os.fork()
    if child == 0:
        ctypes.memset(x.data_ptr(), 0, MIB)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert float(x.min()) == 3


def test_small_tensors_are_paddles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "find", lambda: (None, "it is not asked"))
    for shape, dtype in (([3], paddle.float32), ([0, 5], paddle.float32), ([2], paddle.int64)):
        x = library.empty(shape, dtype)
        assert (x.shape, x.dtype) == (shape, dtype)


def test_a_gradient_may_be_there_and_outlive_the_graph() -> None:
    weight = paddle.to_tensor(np.ones(MIB, np.float32), stop_gradient=False)

    class Doubled(paddle.autograd.PyLayer):
        @staticmethod
        def forward(ctx: object, x: paddle.Tensor) -> paddle.Tensor:
            y = library.empty_like(x)
            paddle.assign(x * 2, y)
            return y

        @staticmethod
        def backward(ctx: object, dy: paddle.Tensor) -> paddle.Tensor:
            dx = library.empty_like(dy)
            paddle.assign(dy * 2, dx)
            return dx

    for times in (1, 2):
        Doubled.apply(weight).sum().backward()
        of_mib(4).fill_(-1)
        assert float(weight.grad.min()) == float(weight.grad.max()) == 2 * times
