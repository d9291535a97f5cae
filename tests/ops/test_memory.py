"""Memory of operators' results: the next of a size takes it over; what no step needs goes back."""

from __future__ import annotations

import ctypes
import mmap
import os

import numpy as np
import paddle
import pytest

from llm_pretrain.ops.native import library

MIB = 1 << 20


@pytest.fixture(autouse=True)
def idle(monkeypatch: pytest.MonkeyPatch) -> dict[int, list[object]]:
    blocks: dict[int, list[object]] = {}
    monkeypatch.setattr(library, "_idle", blocks)
    monkeypatch.setattr(library, "_unneeded", {})
    return blocks


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


def test_what_a_step_needs_stays_and_the_rest_is_given_back(idle: dict[int, list[object]]) -> None:
    def lie_idle() -> dict[int, int]:
        return {size // MIB: len(blocks) for size, blocks in idle.items() if blocks}

    def step() -> None:
        """Two tensors of 2 MiB at a time, thrice."""
        for _ in range(3):
            del [of_mib(2) for _ in range(2)][:]

    del [of_mib(2) for _ in range(5)][:], [of_mib(3)][:]
    assert lie_idle() == {2: 5, 3: 1}
    library.give_back_memory()  # what the step that ends needed is there for the next
    assert lie_idle() == {2: 5, 3: 1}
    step()
    library.give_back_memory()
    assert lie_idle() == {2: 2}
    step()
    assert lie_idle() == {2: 2}
    library.give_back_memory()
    library.give_back_memory()
    assert not lie_idle()


def test_a_step_of_other_sizes_takes_the_memory_of_the_last(
    idle: dict[int, list[object]],
) -> None:
    del [of_mib(2) for _ in range(4)][:], [of_mib(1)][:]
    library.give_back_memory()
    x, y = of_mib(1), of_mib(3)  # for which two of the former step's go, and none of this one's
    assert {size // MIB: len(blocks) for size, blocks in idle.items()} == {2: 2, 1: 0}
    del x, y
    assert {size // MIB: len(blocks) for size, blocks in idle.items()} == {2: 2, 1: 1, 3: 1}


def test_where_memory_is_short_all_that_lies_idle_is_given_back(
    idle: dict[int, list[object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    del [of_mib(4) for _ in range(2)][:]
    plain, failures = mmap.mmap, [OSError("Cannot allocate memory")]

    def short(*arguments: int, **options: int) -> mmap.mmap:
        if failures:
            raise failures.pop()
        return plain(*arguments, **options)

    monkeypatch.setattr(mmap, "mmap", short)
    assert of_mib(2).shape == [2, MIB // 4]
    assert {size: len(blocks) for size, blocks in idle.items()} == {2 * MIB: 1}
    failures += [OSError("Cannot allocate memory")] * 2
    with pytest.raises(OSError, match="Cannot allocate memory"):
        of_mib(3)


def test_a_child_process_writes_to_memory_of_its_own() -> None:
    x = of_mib(1)
    x.fill_(3)
    child = os.fork()
    if child == 0:
        ctypes.memset(x.data_ptr(), 0, MIB)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert float(x.min()) == 3


def test_small_tensors_are_paddles(idle: dict[int, list[object]]) -> None:
    for shape, dtype in (([3], paddle.float32), ([0, 5], paddle.float32), ([2], paddle.int64)):
        x = library.empty(shape, dtype)
        assert (x.shape, x.dtype) == (shape, dtype)
    del x
    assert not idle


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
