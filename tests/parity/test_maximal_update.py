"""muP is the same in every layout, over a resume, and with what is fused; its own base is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from llm_pretrain.models.families import CAPABILITIES
from tests.parity.grid import DP2, PP2, PP2SD2, SAMPLES, SD2, TP2, Layout, stage
from tests.parity.one_launch import launch, numbers
from tests.small_runs import write_data

STEPS = 4
MODELS = ("LLaMA2-70B", "GPT3", "Qwen3")
"""A head of its own; a tied one, biases and small branch ends; norms of heads, of another width."""
BASES = {"mup_base_hidden_size": 32, "mup_base_head_dim": 4, "mup_base_num_hidden_layers": 2}
FUSED = {"fuse_attention_qkv": True, "fuse_attention_ffn": True}
LAYOUTS: dict[str, tuple[Layout, dict[str, Any]]] = {
    "dp2": (DP2, {}),
    "pp2": (PP2, {}),
    "tp2-sequence-parallel": (TP2, {"sequence_parallel": True}),
    "stage1": (SD2, stage(1)),
    "stage2": (SD2, stage(2)),
    "stage3": (SD2, stage(3, recompute=True)),
}


def case(model: str, layout: Layout, **options: Any) -> dict[str, Any]:
    return {
        "model_name_or_path": CAPABILITIES[model],
        "max_steps": STEPS,
        "learning_rate": 1e-2,
        "weight_decay": 0.1,
        **layout.options,
        **BASES,
        **options,
    }


def control(model: str, micro_batches: int, **options: Any) -> dict[str, Any]:
    """One process, which takes all micro-batches."""
    sizes = {
        "gradient_accumulation_steps": micro_batches,
        "per_device_train_batch_size": SAMPLES // micro_batches,
    }
    return case(model, Layout("one"), **{**sizes, **options})


def assert_same_weights(one: Path, other: Path) -> None:
    first, second = (load_file(output / "model.safetensors") for output in (one, other))
    assert first.keys() == second.keys()
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name], err_msg=name)


def test_tensor_parallel_ranks_and_what_is_fused_follow_one_process(tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    without_heads = {"mup_base_head_dim": None}
    one = {model: control(model, 2) for model in MODELS}
    one["LLaMA2-70B apart"] = control("LLaMA2-70B", 2, **without_heads)
    one["LLaMA2-70B fused"] = control("LLaMA2-70B", 2, **without_heads, **FUSED)
    one["standard"] = control("LLaMA2-70B", 2, **dict.fromkeys(BASES))
    own = {"mup_base_hidden_size": 64, "mup_base_head_dim": 8, "mup_base_num_hidden_layers": 3}
    one["own base"] = control("LLaMA2-70B", 2, **own)
    saved = {"save_strategy": "steps", "save_steps": 2}
    one["saved"] = control("GPT3", 2, **saved)
    checkpoint = tmp_path / "one" / "saved" / "checkpoint-2"
    one["resumed"] = control("GPT3", 2, resume_from_checkpoint=str(checkpoint))
    alone = launch(tmp_path, "one", one, 1)
    two = {model: case(model, TP2) for model in MODELS}
    two["LLaMA2-70B fused"] = case("LLaMA2-70B", TP2, **without_heads, **FUSED)
    shared = launch(tmp_path, "two", two, 2)
    for name in two:
        assert numbers(shared[name]) == pytest.approx(numbers(alone[name]), rel=1e-5), name
    apart, fused = (numbers(alone[f"LLaMA2-70B {name}"]) for name in ("apart", "fused"))
    assert fused == pytest.approx(apart, rel=1e-5)
    assert_same_weights(alone["standard"], alone["own base"])
    assert numbers(alone["standard"]) == numbers(alone["own base"])
    assert numbers(alone["LLaMA2-70B"]) != pytest.approx(numbers(alone["standard"]), rel=1e-3)
    assert_same_weights(alone["saved"], alone["resumed"])
    # What is written is a model of its family, which needs to know nothing of muP.
    config, standard = ((alone[name] / "config.json") for name in ("LLaMA2-70B", "standard"))
    assert config.read_text() == standard.read_text()


@pytest.mark.slow
def test_every_layout_follows_one_process(tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    one = {f"{model} {number}": control(model, number) for model in MODELS for number in (2, 4)}
    two = {
        f"{model} {name}": case(model, layout, **options)
        for model in MODELS
        for name, (layout, options) in LAYOUTS.items()
    }
    alone = launch(tmp_path, "one", one, 1)
    shared = launch(tmp_path, "two", two, 2)
    for model in MODELS:
        for name, (layout, _) in LAYOUTS.items():
            expected = numbers(alone[f"{model} {layout.micro_batches}"])
            assert numbers(shared[f"{model} {name}"]) == pytest.approx(expected, rel=1e-5), (
                model,
                name,
            )
    four = {model: case(model, PP2SD2, **stage(2)) for model in MODELS}
    for model, output in launch(tmp_path, "four", four, 4).items():
        expected = numbers(alone[f"{model} {PP2SD2.micro_batches}"])
        assert numbers(output) == pytest.approx(expected, rel=1e-5), model


@pytest.mark.slow
def test_a_checkpoint_goes_on_in_another_layout(tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    saved = {"save_strategy": "steps", "save_steps": STEPS // 2}
    one = {
        f"{model} {number}": control(model, number, **saved)
        for model in MODELS
        for number in (2, 4)
    }
    alone = launch(tmp_path, "one", one, 1)

    def resumed(saves: dict[str, Path], model: str, number: int, **options: Any) -> dict[str, Any]:
        checkpoint = saves[f"{model} {number}"] / f"checkpoint-{STEPS // 2}"
        return {**options, "resume_from_checkpoint": str(checkpoint)}

    def assert_goes_on(whole: Path, output: Path) -> None:
        """The losses and norms of the later half."""
        expected = numbers(whole)[STEPS:]
        assert len(expected) >= STEPS
        assert numbers(output) == pytest.approx(expected, rel=1e-5), output

    two = {
        f"{model} {name}": resumed(
            alone, model, layout.micro_batches, **case(model, layout, **options)
        )
        for model in MODELS
        for name, (layout, options) in LAYOUTS.items()
    }
    two |= {f"{model} 2": case(model, TP2, **saved) for model in MODELS}
    two |= {f"{model} 4": case(model, SD2, **stage(2), **saved) for model in MODELS}
    shared = launch(tmp_path, "two", two, 2)
    for model in MODELS:
        for name, (layout, _) in LAYOUTS.items():
            whole = alone[f"{model} {layout.micro_batches}"]
            assert_goes_on(whole, shared[f"{model} {name}"])
    back = {
        f"{model} {number}": resumed(shared, model, number, **control(model, number))
        for model in MODELS
        for number in (2, 4)
    }
    for name, output in launch(tmp_path, "back", back, 1).items():
        assert_goes_on(alone[name], output)
