"""The decoder: its tensors, its initial values, what it sees, its precisions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import paddle
import pytest

from llm_pretrain.models.decoder import Chunk, Decoder
from llm_pretrain.ops.operator import set_compute_dtype
from llm_pretrain.parallel.layers.micro_batch import whole_sequences
from llm_pretrain.parallel.sharding.pieces import initialize, named_pieces
from tests.models.small import small_config, small_model

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "tied": {"tie_word_embeddings": True},
    "biases": {"attention_bias": True, "attention_output_bias": True, "mlp_bias": True},
    "fused": {"fuse_attention_qkv": True, "fuse_attention_ffn": True},
    "head-dim": {"head_dim": 6, "num_key_value_heads": 1},
}


def tokens(batch: int = 2, length: int = 9) -> paddle.Tensor:
    generator = np.random.default_rng(0)
    return paddle.to_tensor(generator.integers(0, 64, (batch, length)))


@pytest.fixture(autouse=True)
def restored_precision() -> Iterator[None]:
    yield
    set_compute_dtype("float32")
    paddle.set_default_dtype("float32")


@pytest.mark.parametrize("name", VARIANTS)
def test_tensors_are_those_of_the_config(name: str) -> None:
    config = small_config(**VARIANTS[name])
    model = Decoder(config)
    assert {piece.name: piece.shape for _, piece in named_pieces(model)} == config.tensor_shapes()
    assert sum(parameter.size for parameter in model.parameters()) == config.parameter_count()


@pytest.mark.parametrize("name", VARIANTS)
def test_initial_values_are_as_published(name: str) -> None:
    """Weights N(0, initializer_range), norms one, biases zero."""
    changes = {**VARIANTS[name], "hidden_size": 64, "vocab_size": 128, "initializer_range": 0.03}
    model = small_model(**changes)
    for parameter, piece in named_pieces(model):
        values = parameter.numpy()[piece.region(0, 1)]
        if "norm" in piece.name:
            assert (values == 1).all(), piece.name
        elif piece.name.endswith("bias"):
            assert (values == 0).all(), piece.name
        else:
            assert values.mean() == pytest.approx(0, abs=0.004), piece.name
            assert values.std() == pytest.approx(0.03, rel=0.1), piece.name


def test_initial_loss_is_that_of_a_blind_guess() -> None:
    labels = tokens(8, 32)
    loss = small_model()(labels, labels_BS=labels).mean()
    assert float(loss) == pytest.approx(math.log(64), abs=0.02)


def test_fused_and_split_projections_are_one_model() -> None:
    split, fused = small_model(), small_model(**VARIANTS["fused"])
    assert len(fused.parameters()) < len(split.parameters())
    np.testing.assert_allclose(split(tokens()).numpy(), fused(tokens()).numpy(), atol=1e-6)


def test_a_position_sees_only_what_stands_before_it() -> None:
    model, x = small_model(), tokens()
    changed = x.clone()
    changed[:, 5:] = 0
    before, after = model(x).numpy(), model(changed).numpy()
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert (before[:, 5:] != after[:, 5:]).any()


def test_order_matters() -> None:
    model = small_model()
    logits = [model(paddle.to_tensor([x])).numpy()[0, -1] for x in ([1, 2, 3], [2, 1, 3])]
    assert np.abs(logits[0] - logits[1]).max() > 1e-6


FIRST = Chunk(range(1), has_embedding=True, has_head=False)
SECOND = Chunk(range(1, 2), has_embedding=False, has_head=True)


@pytest.mark.parametrize("tied", [False, True])
def test_chunks_one_after_another_are_the_model(tied: bool) -> None:
    config = small_config(num_hidden_layers=2, tie_word_embeddings=tied)
    expected = small_model(num_hidden_layers=2, tie_word_embeddings=tied)(tokens()).numpy()
    apart = [Decoder(config, [chunk]) for chunk in (FIRST, SECOND)]
    together = Decoder(config, [FIRST, SECOND])
    for model in (*apart, together):
        initialize(model, 0)
    np.testing.assert_array_equal(apart[1](apart[0](tokens())).numpy(), expected)
    np.testing.assert_array_equal(together(together(tokens()), chunk=1).numpy(), expected)


def test_a_tied_head_alone_holds_the_table_under_its_name() -> None:
    config = small_config(tie_word_embeddings=True)
    head = Chunk(range(0), has_embedding=False, has_head=True)
    names = [piece.name for _, piece in named_pieces(Decoder(config, [head]))]
    assert sorted(names) == ["embedding.weight", "norm.weight"]


def test_hidden_dropout_while_training() -> None:
    model = small_model(embedding_dropout=0.5, hidden_dropout=0.5, attention_dropout=0.5)
    x = tokens()
    seeds = [replace(whole_sequences(*x.shape), seed=seed) for seed in (1, 1, 2)]
    first, again, other = (model(x, sequences).numpy() for sequences in seeds)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    model.eval()
    np.testing.assert_array_equal(model(x).numpy(), small_model()(x).numpy())


@pytest.mark.parametrize("level", ["O1", "O2"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", VARIANTS)
def test_low_precision_is_near_float32(name: str, dtype: str, level: str) -> None:
    changes = {**VARIANTS[name], "initializer_range": 0.2}
    x = tokens()
    exact = loss_and_gradients(small_model(**changes), x)
    set_compute_dtype(dtype)
    if level == "O2":
        paddle.set_default_dtype(dtype)
    model = small_model(**changes)
    weight_dtype = dtype if level == "O2" else "float32"
    assert {str(p.dtype) for p in model.parameters()} == {f"paddle.{weight_dtype}"}
    low = loss_and_gradients(model, x)
    tolerance = 0.1 if dtype == "bfloat16" else 0.01
    for mine, expected in zip(low, exact, strict=True):
        assert np.abs(mine - expected).max() <= tolerance * np.abs(expected).max()
    assert any((mine != expected).any() for mine, expected in zip(low, exact, strict=True))


def loss_and_gradients(model: Decoder, x: paddle.Tensor) -> list[np.ndarray]:
    loss = model(x, labels_BS=x).mean()
    loss.backward()
    assert loss.dtype == paddle.float32
    tensors = [loss, *(parameter.grad for parameter in model.parameters())]
    return [tensor.astype("float32").numpy() for tensor in tensors]
