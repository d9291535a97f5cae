"""What changes outside training for samples longer than those of training, by its formulas."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest

from llm_pretrain.config.model_config import Extrapolation, Rope
from llm_pretrain.models.position import scale_queries, with_larger_base
from llm_pretrain.parallel.layers.micro_batch import Sequences, whole_sequences
from tests.models.small import small_config, small_model

TRAINED = Extrapolation(8)


@pytest.mark.parametrize(
    ("length", "growth"), [(3, 1), (8, 1), (9, 3), (16, 3), (17, 7), (32, 7), (33, 15)]
)
def test_base_grows_in_steps(length: int, growth: int) -> None:
    config = small_config(head_dim=6, rope=Rope(100.0), extrapolation=TRAINED)
    rope = with_larger_base(config, length).rope
    assert rope is not None
    assert rope.theta == pytest.approx(100.0 * growth**1.5)


def test_heads_of_one_pair_keep_their_base() -> None:
    config = small_config(head_dim=2, extrapolation=TRAINED)
    assert with_larger_base(config, 100) == config


def scales(sequences: Sequences, extrapolation: Extrapolation = TRAINED) -> np.ndarray:
    ones = paddle.ones([2, len(sequences.positions), 1, 1])
    return scale_queries(ones, sequences, extrapolation).numpy()[..., 0, 0]


def test_queries_grow_with_the_logarithm_of_the_tokens_before_them() -> None:
    expected = [max(1.0, math.log(n) / math.log(8)) for n in range(1, 21)]
    np.testing.assert_allclose(scales(whole_sequences(2, 20)), [expected] * 2, rtol=1e-6)
    assert (scales(whole_sequences(2, 8)) == 1).all()


def test_queries_of_a_part_of_the_positions() -> None:
    whole = scales(whole_sequences(2, 20))
    part = scales(Sequences(20, (0, 1), ((5, 10), (15, 20))))
    np.testing.assert_array_equal(part, whole[:, [*range(5, 10), *range(15, 20)]])


def test_queries_of_documents_that_begin_anew() -> None:
    ids = np.array([[*range(12), *range(8)], [*range(20)]])
    whole = scales(whole_sequences(2, 20))
    found = scales(Sequences(20, (0, 1), ((0, 20),), position_ids=ids))
    np.testing.assert_array_equal(found, np.take_along_axis(whole, ids, axis=1))


def test_training_is_left_alone() -> None:
    plain, extended = small_model(), small_model(extrapolation=TRAINED)
    tokens = paddle.randint(0, 64, [1, 20])
    for training in (True, False):
        plain.train() if training else plain.eval()
        extended.train() if training else extended.eval()
        is_equal = bool((plain(tokens) == extended(tokens)).all())
        assert is_equal == training


def test_within_the_trained_length_evaluation_is_left_alone() -> None:
    plain, extended = small_model(), small_model(extrapolation=TRAINED)
    plain.eval()
    extended.eval()
    tokens = paddle.randint(0, 64, [1, 8])
    np.testing.assert_array_equal(plain(tokens).numpy(), extended(tokens).numpy())
