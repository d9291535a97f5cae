"""A checkpoint knows its model and its data: what differs on a resume is named, old → new."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from llm_pretrain.checkpoint.weight_files import HUGGING_FACE
from llm_pretrain.config import RunConfig, load_run_config
from llm_pretrain.config.model_config import (
    BlankInfilling,
    Extrapolation,
    LearnedPositions,
    LinearScaling,
    ModelConfig,
    Rope,
)
from llm_pretrain.data import open_sources
from llm_pretrain.models.families import load_model_config
from llm_pretrain.training.origin import changes, fingerprint, model_differences, origin_of
from tests.small_runs import small_config, write_config, write_data, write_model

OTHER: dict[str, Any] = {
    "family": "qwen2",
    "rope": Rope(theta=5e5, scaling=LinearScaling(2.0)),
    "learned_positions": LearnedPositions(2),
    "extrapolation": Extrapolation(2048),
    "norm": "layer_norm",
    "activation": "relu",
    "blank_infilling": BlankInfilling(1, 2, 3, 4),
    "bos_token_id": 7,
    "eos_token_id": (8, 9),
    "pad_token_id": 0,
}
"""Another value of each field that is no number and no switch."""
SAME_MODEL = {
    "use_flash_attention",
    "use_fused_linear_cross_entropy",
    "fuse_attention_qkv",
    "fuse_attention_ffn",
}
FIELDS = [field.name for field in dataclasses.fields(ModelConfig)]


@pytest.fixture
def run(tmp_path: Path) -> RunConfig:
    return load(tmp_path, "run")


def load(folder: Path, name: str, **values: Any) -> RunConfig:
    model, data = folder / "model", folder / "data"
    if not model.exists():
        write_model(model)
        write_data(data)
    output_dir = values.pop("output_dir", folder / "out")
    config = small_config(model, data, output_dir, **values)
    return load_run_config(write_config(folder / f"{name}.json", config))


def model_of(run: RunConfig) -> ModelConfig:
    return load_model_config(run.model.model_name_or_path, run.model, max_seq_length=32)


def origin(run: RunConfig, processes: int = 1) -> dict[str, Any]:
    return origin_of(run, model_of(run), processes, open_sources(run.data))


def saved(folder: Path, model: ModelConfig) -> tuple[Path, dict[str, Any]]:
    """A checkpoint's config.json, and its state."""
    checkpoint = folder / "checkpoint-4"
    checkpoint.mkdir()
    published = {**HUGGING_FACE.write_config(model), "torch_dtype": "float32"}
    (checkpoint / "config.json").write_text(json.dumps(published))
    return checkpoint, {}


def other_value(model: ModelConfig, field: str) -> Any:
    value = getattr(model, field)
    if field in OTHER:
        return OTHER[field]
    return not value if isinstance(value, bool) else value * 2 + 0.5


@pytest.mark.parametrize("field", FIELDS)
def test_another_value_of_any_field_is_another_model(
    tmp_path: Path, run: RunConfig, field: str
) -> None:
    model = model_of(run)
    checkpoint, state = saved(tmp_path, model)
    state["origin"] = origin(run)
    assert model_differences(checkpoint, state, model) == []
    other = dataclasses.replace(model, **{field: other_value(model, field)})
    assert bool(model_differences(checkpoint, state, other)) == (field not in SAME_MODEL)


def test_differences_have_the_names_of_config_json(tmp_path: Path, run: RunConfig) -> None:
    model = model_of(run)
    checkpoint, state = saved(tmp_path, model)
    other = dataclasses.replace(
        model, num_hidden_layers=6, norm_eps=1e-5, tie_word_embeddings=True, rope=Rope(5e5)
    )
    expected = {
        "num_hidden_layers: 4 → 6",
        "rms_norm_eps: 1e-06 → 1e-05",
        "rope_theta: 10000.0 → 500000.0",
        "tie_word_embeddings: False → True",
    }
    # A checkpoint of an earlier version has config.json alone.
    for known in ({}, {"origin": origin(run)}):
        assert set(model_differences(checkpoint, state | known, other)) == expected


def test_a_field_that_a_checkpoint_does_not_know_has_its_default(
    tmp_path: Path, run: RunConfig
) -> None:
    model = model_of(run)
    checkpoint, state = saved(tmp_path, model)
    state["origin"] = origin(run)
    del state["origin"]["model"]["embedding_gradient_share"]
    assert model_differences(checkpoint, state, model) == []
    other = dataclasses.replace(model, embedding_gradient_share=0.1)
    assert model_differences(checkpoint, state, other) == ["embedding_gradient_share: 1.0 → 0.1"]


def test_what_serves_an_operator_may_change(run: RunConfig) -> None:
    """Where it was timed, on a GPU; `check` doesn't know what will serve."""
    plain = origin(run)
    before, now = (
        {**plain, "operators": {"serving": {"norm": ["CUDA"], "attention": serving}}}
        for serving in (["CUDA", "Paddle's kernel"], [])
    )
    assert changes(before, now) == ["operator attention: CUDA → reference"]
    assert changes(before, before) == changes(before, plain) == changes(plain, now) == []


def test_what_may_change_is_a_line_each(tmp_path: Path, run: RunConfig) -> None:
    before = origin(run)
    assert changes(before, before) == []
    assert changes({}, before) == [], "an earlier version has noted nothing"
    now = load(
        tmp_path,
        "now",
        learning_rate=5e-4,
        max_steps=30,
        bf16=True,
        output_dir=tmp_path / "elsewhere",
        resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-4"),
    )
    assert changes(before, origin(now, 2)) == [
        "max_steps: 20 → 30",
        "learning_rate: 0.001 → 0.0005",
        "decay_steps: 20 → 30",
        "bf16: False → True",
        "processes: 1 → 2",
    ]


def test_other_data_a_tokenizer_and_weights_are_named(tmp_path: Path, run: RunConfig) -> None:
    before = origin(run)
    idle = origin(run)
    assert before == idle
    contents = bytearray((tmp_path / "data" / "text.bin").read_bytes())
    contents[len(contents) // 2] ^= 1
    (tmp_path / "data" / "text.bin").write_bytes(contents)
    (tmp_path / "model" / "tokenizer_config.json").write_text("{}")
    size = sum(path.stat().st_size for path in (tmp_path / "data").glob("text.*"))
    data, tokenizer = (line.split(" (")[0] for line in sorted(changes(before, origin(run))))
    assert data == f"data: 2 files of {size:,} bytes"
    assert tokenizer == "tokenizer: none → 1 file of 2 bytes"
    blends = [f"{weight} {tmp_path}/data/text 1 {tmp_path}/data/text" for weight in (1, 3)]
    even, uneven = (load(tmp_path, f"{n}", input_dir=blend) for n, blend in enumerate(blends))
    found = changes(origin(even), origin(uneven))
    assert found[1:] == ["weights of the data: [1.0, 1.0] → [3.0, 1.0]"]


def test_long_values_are_shown_where_they_differ(tmp_path: Path, run: RunConfig) -> None:
    pairs = [f"1 {tmp_path}/data/text" for _ in range(40)]
    before = load(tmp_path, "before", input_dir=" ".join(pairs))
    pairs[20] = f"2 {tmp_path}/data/text"
    now = load(tmp_path, "now", input_dir=" ".join(pairs))
    lines = changes(origin(before), origin(now))
    for line in lines:
        old, new = line.partition(": ")[2].split(" → ")
        assert old != new
        assert "1" in old
        assert "2" in new
        assert len(line) < 250


def test_a_fingerprint_is_of_names_sizes_and_contents_but_of_no_folder(tmp_path: Path) -> None:
    paths = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        paths.append(tmp_path / folder / "text.bin")
        paths[-1].write_bytes(b"x" * 100_000)
    first = fingerprint(paths[:1])
    assert fingerprint(paths[1:]) == first
    assert fingerprint([]) != first
    for contents in (b"y" + b"x" * 99_999, b"x" * 99_999 + b"y", b"x" * 99_999, b""):
        paths[1].write_bytes(contents)
        assert fingerprint(paths[1:]) != first
    paths[1].write_bytes(b"x" * 100_000)
    assert fingerprint([paths[1].rename(paths[1].with_name("other.bin"))]) != first
