"""Flat buffers: parameters are views, gradients land in them, norms are exact."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn

from llm_pretrain.parallel.comm.topology import current
from llm_pretrain.parallel.sharding.buckets import Bucket, Sharding, build_buckets
from llm_pretrain.parallel.sharding.optimizer import global_norm


class TwoLayers(nn.Layer):
    prefix = ""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 5)
        self.second = nn.Linear(5, 2)

    def forward(self, x):
        return self.second(self.first(x).tanh())


def buckets_of(model: nn.Layer, size: int = 1 << 20, **options) -> list[Bucket]:
    return build_buckets(model, current(), Sharding(1, size, **options), tied_embedding=False)


def gradients_of(bucket: Bucket) -> list[np.ndarray]:
    """The gradient of each parameter of the bucket, flat."""
    flat = bucket.reduce_gradients()
    return [flat[place.begin : place.end].numpy() for place in bucket.buffer.placements]


def test_parameters_keep_their_values_and_become_views() -> None:
    model = TwoLayers()
    before = {name: value.numpy().copy() for name, value in model.named_parameters()}
    buckets = buckets_of(model)
    for name, value in model.named_parameters():
        np.testing.assert_array_equal(value.numpy(), before[name])
    with paddle.no_grad():
        for bucket in buckets:
            bucket.master.fill_(2.0)
    assert all(float(value.min()) == 2.0 for value in model.parameters())


def test_matrices_decay_and_biases_do_not() -> None:
    kinds = {
        len(placement.parameter.shape): bucket.kind.decays
        for bucket in buckets_of(TwoLayers())
        for placement in bucket.buffer.placements
    }
    assert kinds == {2: True, 1: False}


def test_gradients_of_several_backward_passes_add_up() -> None:
    paddle.seed(0)
    x, model, reference = paddle.randn([4, 3]), TwoLayers(), TwoLayers()
    reference.set_state_dict(model.state_dict())
    reference(x).sum().backward()
    pairs = zip(model.parameters(), reference.parameters(), strict=True)
    expected = {id(value): 2 * other.grad.numpy().reshape(-1) for value, other in pairs}
    buckets = buckets_of(model)
    for _ in range(2):
        model(x).sum().backward()
    for bucket in buckets:
        places = bucket.buffer.placements
        for placement, found in zip(places, gradients_of(bucket), strict=True):
            np.testing.assert_allclose(found, expected[id(placement.parameter)], rtol=1e-6)
    assert all(value.grad is None for value in model.parameters()), "no second copy is kept"


@pytest.mark.parametrize("releases", [False, True])
def test_a_step_begins_without_the_gradients_of_the_one_before(releases: bool) -> None:
    model = TwoLayers()
    buckets = buckets_of(model, releases_gradients=releases)
    found = []
    for _ in range(2):
        model(paddle.ones([4, 3])).sum().backward()
        found.append(np.concatenate([g for bucket in buckets for g in gradients_of(bucket)]))
        for bucket in buckets:
            bucket.clear_gradients()
    np.testing.assert_array_equal(found[0], found[1])


def test_released_gradients_take_no_memory_between_steps() -> None:
    def held() -> int:
        return paddle.base.core.host_memory_stat_current_value("Allocated", 0)

    model = nn.Linear(512, 512, bias_attr=False)
    model.prefix = ""
    (bucket,) = buckets_of(model, releases_gradients=True)
    before = held()
    model(paddle.ones([1, 512])).sum().backward()
    assert held() - before >= 512 * 512 * 4
    bucket.clear_gradients()
    assert held() - before < 512 * 512 * 4


def test_small_buckets_hold_all_parameters_once() -> None:
    model = TwoLayers()
    placed = [
        id(placement.parameter)
        for bucket in buckets_of(model, size=1)
        for placement in bucket.buffer.placements
    ]
    assert sorted(placed) == sorted(id(value) for value in model.parameters())


def test_low_precision_weights_have_float32_masters() -> None:
    model = TwoLayers()
    model.to(dtype="bfloat16")
    (bucket, *_) = buckets_of(model)
    assert bucket.master.dtype == paddle.float32
    with paddle.no_grad():
        bucket.master.fill_(1.0 + 2**-12)
    bucket.weights.all_gather()
    weight = bucket.buffer.placements[0].parameter
    assert weight.dtype == paddle.bfloat16
    assert float(weight.astype("float32").max()) == 1.0


@pytest.mark.parametrize("size", [1000, 6_000_000])
def test_the_norm_is_exact_over_long_tensors(size: int) -> None:
    class OneVector(nn.Layer):
        prefix = ""

        def __init__(self) -> None:
            super().__init__()
            self.vector = self.create_parameter([size])

    model = OneVector()
    (bucket,) = buckets_of(model)
    values = np.random.default_rng(0).standard_normal(size, dtype=np.float32)
    (model.vector * paddle.to_tensor(values)).sum().backward()
    found = float(global_norm([bucket], [bucket.reduce_gradients()], current()))
    expected = np.sqrt((values.astype(np.float64) ** 2).sum())
    assert found == pytest.approx(expected, rel=1e-6)
