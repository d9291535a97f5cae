"""The head and its loss by the CUDA kernels, a slice of the vocabulary at a time."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import paddle
import pytest
from paddle import Tensor

from llm_pretrain import ops
from llm_pretrain.ops import vocabulary_slices
from llm_pretrain.ops.operator import set_compute_dtype
from llm_pretrain.parallel.layers.vocabulary import IGNORED_LABEL, VocabularyParallelHead
from tests.ops.comparison import close, normal
from tests.ops.cuda import emulated
from tests.ops.cuda.comparison import BOUNDS

CHUNKS, COLUMNS, PRESENT = 3, 600, 590
FORWARD = ["cross_entropy_begin", *["cross_entropy_add"] * CHUNKS]
BACKWARD = ["cross_entropy_backward"] * CHUNKS


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary_slices, "_LOGITS", 1)  # of 256 columns, then


def operands(dtype: str, *, transposed: bool) -> tuple[Tensor, Tensor, Tensor]:
    weight = normal("float32", COLUMNS, 8).scale(0.5)
    # The padding's columns would be the largest, if they counted.
    weight[PRESENT:] = 30.0
    labels = paddle.to_tensor([0, 255, 256, PRESENT - 1, -1])
    return normal(dtype, 5, 8), weight if transposed else weight.T.contiguous(), labels


def outcome(x: Tensor, weight: Tensor, labels: Tensor, **options: bool) -> list[np.ndarray]:
    """Statistics and gradients, of which that of the weight is added to ones."""
    statistics = ops.linear_log_sums(x, weight, labels, vocabulary=PRESENT, **options)
    dweight = paddle.ones(weight.shape)
    dx = ops.linear_cross_entropy_gradients(
        x, weight, labels, statistics[0] + statistics[1].log(), normal("float32", 5),
        vocabulary=PRESENT, dweight=dweight, accumulate=True, **options,
    )  # fmt: skip
    return [y.numpy() for y in (*statistics, dx, dweight)]


@pytest.mark.parametrize("transposed", [True, False], ids=["transposed", "plain"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_statistics_and_gradients(cuda: ModuleType, dtype: str, transposed: bool) -> None:
    given = operands(dtype, transposed=transposed)
    expected = outcome(*given, transposed=transposed)
    emulated.serve()
    found = outcome(*given, transposed=transposed)
    assert cuda.calls == FORWARD + BACKWARD
    close(found, expected, BOUNDS[dtype])


def test_shares_of_ranks_make_the_whole(cuda: ModuleType) -> None:
    """Every rank has statistics of its columns, with its own labels, as tensor parallelism does."""
    x, weight, labels = operands("float32", transposed=True)
    expected = ops.linear_log_sums(x, weight, labels, vocabulary=PRESENT, transposed=True)
    emulated.serve()
    parts = []
    for begin, end in ((0, 300), (300, PRESENT)):
        mine = (labels >= begin) & (labels < end)
        local = paddle.where(mine, labels - begin, paddle.full_like(labels, -1))
        parts.append(ops.linear_log_sums(
            x, weight[begin:end], local, vocabulary=end - begin, transposed=True
        ))  # fmt: skip
    largest = paddle.maximum(parts[0][0], parts[1][0])
    total = sum(part[1] * (part[0] - largest).exp() for part in parts)
    found = [largest, total, parts[0][2] + parts[1][2]]
    close([y.numpy() for y in found], [y.numpy() for y in expected], BOUNDS["float32"])


def test_a_rank_of_padding_alone(cuda: ModuleType) -> None:
    emulated.serve()
    x, weight, labels = operands("float32", transposed=True)
    found = ops.linear_log_sums(
        x, weight, paddle.full_like(labels, -1), vocabulary=0, transposed=True
    )
    assert [float(y[0]) for y in found] == [-np.inf, 0, 0]


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_the_head_of_a_model_keeps_no_logits(cuda: ModuleType, compute: str) -> None:
    set_compute_dtype(compute)
    head = VocabularyParallelHead(8, COLUMNS, std=1.0)
    head.weight.set_value(normal("float32", 8, COLUMNS))
    labels = paddle.to_tensor([[3, 599, IGNORED_LABEL, 256, 0]])

    def losses() -> list[np.ndarray]:
        x = normal("float32", 1, 5, 8)
        x.stop_gradient = False
        head.clear_gradients()
        y = head(x, labels)
        (y * normal("float32", 1, 5)).sum().backward()
        return [y.numpy(), x.grad.numpy(), head.weight.grad.numpy()]

    expected = losses()
    emulated.serve()
    found = losses()
    assert cuda.calls == FORWARD + BACKWARD
    assert found[0][0, 2] == 0
    close(found, expected, BOUNDS[compute] * 3)
