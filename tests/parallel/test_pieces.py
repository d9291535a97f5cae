"""Initial values and names do not depend on how parameters are laid out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.models.decoder import Decoder
from llm_pretrain.parallel.sharding.pieces import (
    Normal,
    Piece,
    initial_values,
    initialize,
    named_pieces,
)
from tests.models.small import small_config

CONFIG = small_config(attention_bias=True, attention_output_bias=True)


def tensors(config: ModelConfig, seed: int = 0) -> dict[str, np.ndarray]:
    model = Decoder(config)
    initialize(model, seed)
    return {
        piece.name: parameter.numpy()[piece.region(0, 1)]
        for parameter, piece in named_pieces(model)
    }


def test_fused_and_split_models_hold_the_same_tensors() -> None:
    split = tensors(CONFIG)
    fused = tensors(replace(CONFIG, fuse_attention_qkv=True, fuse_attention_ffn=True))
    assert split.keys() == fused.keys()
    for name, values in split.items():
        np.testing.assert_array_equal(values, fused[name], err_msg=name)


def test_names_are_the_canonical_ones() -> None:
    layer = "layers.1."
    names = {name for name in tensors(CONFIG) if name.startswith(layer)}
    projections = ("query", "key", "value", "output")
    assert names == {
        layer + "attention_norm.weight",
        layer + "feed_forward_norm.weight",
        *(f"{layer}attention.{name}.weight" for name in projections),
        *(f"{layer}attention.{name}.bias" for name in projections),
        *(f"{layer}feed_forward.{name}.weight" for name in ("gate", "up", "down")),
    }
    rest = {name for name in tensors(CONFIG) if not name.startswith("layers.")}
    assert rest == {"embedding.weight", "norm.weight", "head.weight"}


def test_a_tied_model_has_no_head_of_its_own() -> None:
    assert "head.weight" not in tensors(replace(CONFIG, tie_word_embeddings=True))


def test_the_seed_and_the_name_decide_the_values() -> None:
    piece = Piece("layers.0.attention.query.weight", (64, 64), 1, initializer=Normal(0.02))
    values = initial_values(piece, 7)
    np.testing.assert_array_equal(values, initial_values(piece, 7))
    assert not np.array_equal(values, initial_values(piece, 8))
    assert not np.array_equal(values, initial_values(replace(piece, name="other"), 7))
    assert values.std() == pytest.approx(0.02, rel=0.05)
    assert abs(values.mean()) < 0.002


def test_the_blocks_of_all_ranks_are_the_whole_tensor() -> None:
    piece = Piece("x", (6, 8), 1)
    whole = np.arange(48).reshape(6, 8)
    parts = [whole[piece.block(rank, 4)] for rank in range(4)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)
