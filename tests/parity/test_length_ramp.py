"""Steps on shorter sequences: each is to the model what it is alone, in every layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm_pretrain.data import IndexedWriter
from tests.launching import logged
from tests.parity.grid import CP2, DP2, PP2, SEP2, TP2, Layout
from tests.parity.one_launch import launch
from tests.small_runs import VOCAB_SIZE, write_model

WHOLE, SHORT, SHORTER = 32, 16, 8
END = 0
SAMPLES = 8
"""Of a step."""
SIZES = {"per_device_train_batch_size": 2}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model, and data whose documents are all of one length, with the end token last."""
    write_model(tmp_path / "model", eos_token_id=END)
    generator = np.random.default_rng(0)
    for length in (SHORT, SHORTER):
        with IndexedWriter(tmp_path / f"of-{length}" / "text", np.uint16) as writer:
            for _ in range(400):
                start, stride = generator.integers([0, 1], [VOCAB_SIZE, 4])
                counted = (start + stride * np.arange(length - 1)) % (VOCAB_SIZE - 1)
                writer.add_document([*(1 + counted), END])
    return tmp_path


def options(folder: Path, length: int, **changes: Any) -> dict[str, Any]:
    return {
        "input_dir": f"{folder}/of-{length}/text",
        "split": "1,0,0",
        "max_seq_length": WHOLE,
        **SIZES,
        "gradient_accumulation_steps": SAMPLES // 2,
        "max_steps": 6,
        **changes,
    }


def figures(output: Path) -> list[float]:
    return [line[name] for line in logged(output) for name in ("loss", "global_norm")]


APART = {"reset_attention_mask": True, "reset_position_ids": True}


def test_a_part_of_a_sample_is_to_the_model_what_a_document_is(folder: Path) -> None:
    """Of documents as long as the parts: kept apart by a mask in one case, cut in the other."""
    short, shorter = [[0, SHORT], [1e9, WHOLE]], [[0, SHORTER], [1e9, WHOLE]]
    outputs = launch(
        folder,
        "one",
        {
            "apart": options(folder, SHORT, **APART),
            "cut": options(folder, SHORT, length_ramp=short),
            "shorter apart": options(folder, SHORTER, **APART),
            "shorter cut": options(folder, SHORTER, length_ramp=shorter),
            "shorter apart in cut": options(folder, SHORTER, length_ramp=short, **APART),
            "whole": options(folder, SHORT),
        },
        1,
    )
    found = {name: figures(output) for name, output in outputs.items()}
    assert found["cut"] == pytest.approx(found["apart"], rel=1e-5)
    assert found["shorter cut"] == pytest.approx(found["shorter apart"], rel=1e-5)
    assert found["shorter apart in cut"] == pytest.approx(found["shorter apart"], rel=1e-5)
    assert found["cut"] != pytest.approx(found["whole"], rel=1e-3)


def test_lengths_follow_the_tokens_of_the_run_over_resumes(folder: Path) -> None:
    """Three steps on parts, three on whole samples, as without a ramp."""
    ramp = [[0, SHORT], [3 * SAMPLES * WHOLE, WHOLE]]
    write_model(folder / "model", attention_dropout=0.1)
    values = options(folder, SHORT, save_strategy="steps", save_steps=2)
    from_step = {step: str(folder / f"one/ramp/checkpoint-{step}") for step in (2, 4)}
    outputs = launch(
        folder,
        "one",
        {
            "cut": values | {"length_ramp": [[0, SHORT], [1e9, WHOLE]]},
            "ramp": values | {"length_ramp": ramp},
            "within": values | {"length_ramp": ramp, "resume_from_checkpoint": from_step[2]},
            "after": values | {"resume_from_checkpoint": from_step[4]},
        },
        1,
    )
    found = {name: figures(output) for name, output in outputs.items()}
    assert found["ramp"][:6] == found["cut"][:6]
    assert found["ramp"][6:] != pytest.approx(found["cut"][6:], rel=1e-3)
    assert found["within"] == found["ramp"][4:]
    assert found["after"] == found["ramp"][8:]
    assert [line["consumed_samples"] for line in logged(outputs["ramp"])] == [
        SAMPLES * step for step in range(1, 7)
    ]


@pytest.mark.slow
def test_every_layout_takes_the_steps_of_one_process(folder: Path) -> None:
    ramp = [[0, SHORTER], [2 * SAMPLES * WHOLE, SHORT], [4 * SAMPLES * WHOLE, WHOLE]]

    def of(layout: Layout, **changes: Any) -> dict[str, Any]:
        values = options(folder, SHORT, length_ramp=ramp, **changes)
        steps = SAMPLES // 2 // layout.batch_ranks
        return {**values, **layout.options, **SIZES, "gradient_accumulation_steps": steps}

    one = figures(launch(folder, "one", {"one": of(Layout("one"))}, 1)["one"])
    cases = {layout.name: of(layout) for layout in (DP2, PP2, SEP2, CP2)}
    cases["tp2"] = of(TP2, sequence_parallel=True)
    cases["one reads"] = of(PP2, distributed_dataloader=True)
    for name, output in launch(folder, "two", cases, 2).items():
        assert figures(output) == pytest.approx(one, rel=1e-5), name
