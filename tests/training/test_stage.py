"""What each rank of a pipeline holds, and how it recomputes."""

from __future__ import annotations

from typing import Any

import paddle
import pytest

from llm_pretrain.config import Degrees, TrainingArguments
from llm_pretrain.models.decoder import Decoder
from llm_pretrain.parallel.comm.topology import Topology
from llm_pretrain.parallel.layers.micro_batch import whole_sequences
from llm_pretrain.parallel.sharding.pieces import initialize, named_pieces
from llm_pretrain.training.stage import (
    build_stage,
    layers_of_part,
    recompute_activations,
)
from tests.models.small import small_config, small_model


def place(rank: int = 0, ranks: int = 1, chunks: int = 1) -> Topology:
    degrees = Degrees(1, 1, 1, pipeline=ranks, sep=1, context=1, virtual_pipeline=chunks)
    return Topology(degrees, pipeline_rank=rank)


@pytest.mark.parametrize(("layers", "parts"), [(1, 1), (5, 2), (6, 4), (7, 4), (32, 8), (61, 16)])
def test_parts_are_consecutive_and_as_even_as_can_be(layers: int, parts: int) -> None:
    found = [layers_of_part(layers, part, parts) for part in range(parts)]
    assert [layer for part in found for layer in part] == list(range(layers))
    assert {len(part) for part in found} <= {layers // parts, -(-layers // parts)}


@pytest.mark.parametrize("is_tied", [False, True])
@pytest.mark.parametrize(("ranks", "chunks"), [(1, 1), (2, 1), (3, 1), (2, 2), (2, 3), (3, 2)])
def test_all_ranks_hold_the_model_once(ranks: int, chunks: int, is_tied: bool) -> None:
    config = {"num_hidden_layers": 7, "tie_word_embeddings": is_tied}
    whole = [piece.name for _, piece in named_pieces(small_model(**config))]
    held = [
        piece.name
        for rank in range(ranks)
        for _, piece in named_pieces(
            build_stage(small_config(**config), place(rank, ranks, chunks))
        )
    ]
    if is_tied and ranks > 1:
        held.remove("embedding.weight")  # the first rank and the last have it
    assert sorted(held) == sorted(whole)


def test_chunks_alternate_between_ranks() -> None:
    first, second = (
        build_stage(small_config(num_hidden_layers=5), place(rank, 2, 2)) for rank in (0, 1)
    )
    assert [[layer.prefix for layer in chunk] for chunk in first.chunks] == [
        ["", "layers.0."],
        ["layers.2."],
    ]
    assert [[layer.prefix for layer in chunk] for chunk in second.chunks] == [
        ["layers.1."],
        ["layers.3.", "layers.4.", ""],
    ]


def blocks_computed(stage: Decoder, counts: list[int]) -> list[int]:
    """How often each block is computed in a forward and backward pass."""
    for number, block in stage.blocks.items():
        plain = block.feed_forward.forward

        def forward(x, _number=number, _plain=plain):
            counts[_number] += 1
            return _plain(x)

        block.feed_forward.forward = forward
    tokens = paddle.arange(8).reshape([1, 8])
    stage(tokens, whole_sequences(1, 8), tokens).mean().backward()
    return counts


@pytest.mark.parametrize(
    ("options", "pipeline", "layers", "computed"),
    [
        ({}, 2, 6, [2, 2, 2, 2]),
        ({"pp_recompute_interval": 0}, 2, 6, [1, 1, 1, 1]),
        ({"pp_recompute_interval": 0}, 1, 6, [2, 2, 2, 2]),
        ({"pp_recompute_interval": 3}, 2, 4, [2, 2, 2, 2]),
        ({"pp_recompute_interval": 3}, 1, 6, [2, 2, 2, 2]),
        ({"pp_recompute_interval": 3, "no_recompute_layers": [1]}, 2, 5, [2, 1, 2, 2]),
        ({"pp_recompute_interval": 3, "recompute_granularity": "full_attn"}, 2, 6, [1, 1, 1, 1]),
        ({"no_recompute_layers": [1]}, 1, 6, [2, 1, 2, 2]),
    ],
)
def test_options_of_recompute(
    options: dict[str, Any], pipeline: int, layers: int, computed: list[int]
) -> None:
    stage = build_stage(small_config(num_hidden_layers=4), place())
    initialize(stage, 0)
    training = TrainingArguments(output_dir="out", max_steps=1, recompute=True, **options)
    recompute_activations(stage, training, place(0, pipeline))
    assert len(stage.layers) == layers
    assert blocks_computed(stage, [0] * 4) == computed
