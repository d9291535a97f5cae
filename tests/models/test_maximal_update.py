"""muP: what a width changes (the coordinate check), and the formulation with multipliers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import Tensor, nn

from llm_pretrain.config import TrainingArguments
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.models.decoder import Decoder
from llm_pretrain.models.maximal_update import MaximalUpdate, Scale
from llm_pretrain.parallel.comm.topology import current
from llm_pretrain.parallel.sharding.optimizer import LossScale, ShardedAdamW
from llm_pretrain.parallel.sharding.pieces import fill, local_initial_values
from tests.models.small import small_config

BASE, WIDTHS = 64, (64, 128, 256, 512)
STEPS, RATE = 8, 0.003


def training(**bases: int) -> TrainingArguments:
    """With what is the same in any formulation: no clipping, and hardly an epsilon."""
    return TrainingArguments(
        output_dir="out",
        max_steps=STEPS,
        weight_decay=0.1,
        adam_epsilon=1e-20,
        max_grad_norm=0,
        **bases,
    )


def wide(width: int, **changes: Any) -> ModelConfig:
    """A model whose heads grow in number."""
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "head_dim": 16}
    heads = dict.fromkeys(("num_attention_heads", "num_key_value_heads"), width // 16)
    return small_config(**{**sizes, **heads, **changes})


def tokens(vocabulary: int) -> Tensor:
    return paddle.to_tensor(np.random.default_rng(0).integers(vocabulary, size=(4, 17)))


def loss_of(logits: Tensor, ids: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits, ids[:, 1:].unsqueeze(-1))


def train(
    model: ModelConfig, arguments: TrainingArguments, watch: Callable[[Decoder], None] | None = None
) -> list[float]:
    """The losses of some steps on one batch; `watch` gets the model before the first."""
    mup = MaximalUpdate(model, arguments)
    decoder = Decoder(model)
    fill(
        decoder, lambda piece: local_initial_values(piece.scaled(mup.scale(piece.name).initial), 0)
    )
    if watch is not None:
        watch(decoder)
    optimizer = ShardedAdamW(
        decoder,
        arguments,
        current(),
        tied_embedding=model.tie_word_embeddings,
        rate_of=mup.rate,
    )
    scale, ids, losses = LossScale(1.0, is_dynamic=False), tokens(model.vocab_size), []
    for _ in range(STEPS):
        optimizer.begin_step(1)
        loss = loss_of(decoder(ids[:, :-1]), ids)
        loss.backward()
        losses.append(float(loss))
        optimizer.step(float(optimizer.reduce_gradients()), RATE, scale)
    with paddle.no_grad():
        losses.append(float(loss_of(decoder(ids[:, :-1]), ids)))
    return losses


def coordinates(width: int, *, base: int | None, **changes: Any) -> dict[str, float]:
    """How far training moves what each layer computes: the mean over its coordinates."""
    seen: dict[str, list[Tensor]] = {}

    def watch(decoder: Decoder) -> None:
        embedding, *_, head = decoder.layers
        parts = {"embedding": embedding, "head": head.projection}
        for number, block in decoder.blocks.items():
            parts |= {
                f"attention {number}": block.attention,
                f"feed-forward {number}": block.feed_forward,
                f"block {number}": block,
            }
        for name, layer in parts.items():
            seen[name] = []
            layer.register_forward_post_hook(
                lambda _layer, _inputs, output, kept=seen[name]: kept.append(output.detach())
            )

    bases = {} if base is None else {"mup_base_hidden_size": base}
    train(wide(width, **changes), training(**bases), watch)
    return {name: float((each[-1] - each[0]).abs().mean()) for name, each in seen.items()}


@pytest.mark.parametrize("tied", [False, True])
def test_the_coordinate_check(tied: bool) -> None:
    """At every width training moves every layer by as much under muP, and without ever farther:
    what a block computes at least in proportion to the width."""
    changes = {"tie_word_embeddings": tied}
    scaled = [coordinates(width, base=BASE, **changes) for width in WIDTHS]
    standard = [coordinates(width, base=None, **changes) for width in WIDTHS]
    assert scaled[0] == standard[0], "the base's own width is the standard parametrization"
    for name in scaled[0]:
        moved = [each[name] for each in scaled]
        assert max(moved) < 1.5 * min(moved), (name, moved)
        growth = standard[-1][name] / standard[0][name]
        if name == "head":
            assert growth > 2, growth
        elif name != "embedding":
            assert growth > WIDTHS[-1] / WIDTHS[0], (name, growth)


# Powers of 4, by which (and by whose roots) a factor changes no digit of a number.
SMALL = {"hidden_size": 16, "head_dim": 4, "num_hidden_layers": 1}
LARGE = {"hidden_size": 64, "head_dim": 16, "num_hidden_layers": 4}
WIDTH, HEAD, DEPTH = 4, 4, 4


def multiplied(model: ModelConfig) -> Callable[[Decoder], None]:
    """The formulation of table 8 with CompleteP: factors in the forward pass, for a standard model
    (but for the matrices of its blocks)."""

    def watch(decoder: Decoder) -> None:
        def times(layer: nn.Layer, factor: float) -> None:
            layer.register_forward_post_hook(lambda _layer, _inputs, output: output * factor)

        times(decoder.layers[-1].projection, 1 / WIDTH)
        for block in decoder.blocks.values():
            times(block.attention, 1 / DEPTH)
            times(block.feed_forward, 1 / DEPTH)
            if block.attention.query_norm is not None:
                times(block.attention.query_norm, HEAD**-0.5)
            else:
                block.attention.query_key_value.register_forward_post_hook(
                    lambda _layer, _inputs, output: (output[0] * HEAD**-0.5, *output[1:])
                )

    return watch


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True, "norm": "layer_norm", "attention_bias": True},
        {"query_key_norm": True, "attention_output_bias": True, "mlp_bias": True},
        {"small_branch_ends": True, "tie_word_embeddings": True},
    ],
)
def test_it_is_the_formulation_with_multipliers(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = wide(64, initializer_range=0.1, **{**LARGE, "num_attention_heads": 4, **changes})
    model = replace(model, num_key_value_heads=2)
    bases = training(**{f"mup_base_{size}": value for size, value in SMALL.items()})
    found = train(model, bases)

    def table_8(self: MaximalUpdate, name: str) -> Scale:
        is_matrix = name.startswith("layers.") and name.endswith(".weight") and "norm" not in name
        begin = WIDTH**-0.5 if is_matrix else 1.0
        if model.small_branch_ends and name.endswith(("output.weight", "down.weight")):
            begin *= math.sqrt(DEPTH)  # by √(2 · 1) in place of √(2 · 4)
        return Scale(begin, 1 / WIDTH if is_matrix else 1.0)

    monkeypatch.setattr(MaximalUpdate, "scale", table_8)
    expected = train(model, bases, multiplied(model))
    assert found == pytest.approx(expected, rel=1e-5)
    monkeypatch.undo()
    assert train(model, training())[1:] != pytest.approx(expected[1:], rel=1e-3)


def test_what_is_not_covered_is_refused() -> None:
    def problems(model: ModelConfig, **bases: int) -> list[str]:
        return list(MaximalUpdate(model, training(**bases)).problems())

    model = small_config()
    assert problems(model, mup_base_hidden_size=8, mup_base_head_dim=2) == []
    (head,) = problems(replace(model, norm_head=True), mup_base_hidden_size=8)
    assert "divides its rows" in head
    (branches,) = problems(replace(model, residual_from_norm=True), mup_base_num_hidden_layers=1)
    assert "CompleteP does not cover" in branches
    fused = replace(model, fuse_attention_qkv=True)
    (queries,) = problems(fused, mup_base_head_dim=2)
    assert "fuse_attention_qkv" in queries
    assert problems(fused, mup_base_hidden_size=8, mup_base_head_dim=4) == []
