"""The z-loss of every layout is that of one process, with logits and without them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llm_pretrain.models.families import CAPABILITIES
from tests.launching import logged
from tests.parity.grid import DP2, PP2, SAMPLES, TP2, Layout
from tests.parity.one_launch import launch
from tests.small_runs import write_data

STEPS = 4
MODELS = ("LLaMA2-70B", "Baichuan2-7B", "Bloom-176B", "ChatGLM-6B")
"""A plain head, a normalised one, a tied one, and one whose samples have unequal labels."""
Z_LOSS = {"z_loss_coefficient": 0.01}
LAYOUTS: dict[str, tuple[Layout, dict[str, Any]]] = {
    "dp2": (DP2, {}),
    "pp2": (PP2, {}),
    "tp2": (TP2, {}),
    "tp2-sequence-parallel": (TP2, {"sequence_parallel": True}),
    "tp2-without-logits": (TP2, {"use_fused_linear_cross_entropy": True}),
    "tp2-with-logits": (TP2, {"use_fused_linear_cross_entropy": False}),
}


def cases(layout: Layout, **options: Any) -> dict[str, Any]:
    return {
        "max_steps": STEPS,
        "do_eval": True,
        "eval_steps": STEPS,
        "eval_iters": 1,
        **layout.options,
        **options,
    }


def figures(output: Path) -> list[float]:
    steps = [(line["loss"], line["global_norm"]) for line in logged(output)]
    return [*sum(steps, ()), logged(output, "evaluation")[0]["eval_loss"]]


def control(micro_batches: int, **options: Any) -> dict[str, Any]:
    """One process, which takes all micro-batches."""
    sizes = {
        "gradient_accumulation_steps": micro_batches,
        "per_device_train_batch_size": SAMPLES // micro_batches,
    }
    return cases(Layout("one"), **{**sizes, **options})


def test_every_layout_has_the_z_loss_of_one_process(tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    one, two = {}, {}
    for model in MODELS:
        named = {"model_name_or_path": CAPABILITIES[model]}
        one[f"{model} plain"] = control(2, **named)
        for micro_batches in (2, 4):
            one[f"{model} {micro_batches}"] = control(micro_batches, **named, **Z_LOSS)
        for name, (layout, options) in LAYOUTS.items():
            two[f"{model} {name}"] = cases(layout, **named, **options, **Z_LOSS)
    alone = launch(tmp_path, "one", one, 1)
    shared = launch(tmp_path, "two", two, 2)
    for model in MODELS:
        for name, (layout, _) in LAYOUTS.items():
            expected = figures(alone[f"{model} {layout.micro_batches}"])
            found = figures(shared[f"{model} {name}"])
            assert found == pytest.approx(expected, rel=1e-5), (model, name)
        with_it, without = (figures(alone[f"{model} {name}"]) for name in ("2", "plain"))
        # c log² V, nearly, of the first step; the loss of the evaluation has none of it.
        assert with_it[0] - without[0] > 0.1
        assert with_it[-1] == pytest.approx(without[-1], rel=0.01)
