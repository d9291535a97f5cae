"""This program's LLaMA against that of transformers, from the same weights."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from llm_pretrain.checkpoint.hugging_face import as_published, load_weights, write_weights
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.models.decoder import Decoder
from llm_pretrain.models.families import llama, read_model_config
from llm_pretrain.models.loss import language_model_loss
from llm_pretrain.parallel.pieces import Piece, fill, named_pieces

pytestmark = pytest.mark.peer_transformers

TOLERANCE = 1e-5

SMALL = {
    "model_type": "llama",
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
FUSED = {"fuse_attention_qkv": True, "fuse_attention_ffn": True}
LLAMA_3_1 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}

# Published settings, the run's own settings, and the length of the samples.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "llama-1": ({"rms_norm_eps": 1e-5}, {}, 24),
    "llama-1-fused": ({"initializer_range": 0.01}, FUSED, 24),
    "grouped-tied": ({"num_key_value_heads": 2, "tie_word_embeddings": True}, {}, 24),
    "grouped-tied-fused": ({"num_key_value_heads": 2, "tie_word_embeddings": True}, FUSED, 24),
    "several-blocks": (
        {"num_key_value_heads": 2, "rope_theta": 500000.0, "rope_scaling": LLAMA_3_1}, FUSED, 300,
    ),
    "biases": ({"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1}, {}, 24),
    "biases-fused": ({"attention_bias": True, "mlp_bias": True}, FUSED, 24),
    "head-dim": ({"head_dim": 12, "num_key_value_heads": 2}, FUSED, 24),
    "linear": ({"rope_scaling": {"type": "linear", "factor": 2.0}}, {}, 24),
    "dynamic-within": ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, {}, 24),
    "dynamic-beyond": (
        {"rope_scaling": {"type": "dynamic", "factor": 2.0}, "max_position_embeddings": 16}, {}, 24,
    ),
    "yarn": ({"rope_scaling": YARN}, {}, 24),
    "yarn-temperature": (
        {"rope_parameters": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.3, "truncate": False,
                             "beta_fast": 16.0, "beta_slow": 2.0, "rope_theta": 5000.0}}, {}, 24,
    ),
    "present-spelling": (
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1000.0}}, {}, 24,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def cases(transformers_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of all cases with what transformers made of them."""
    directory = tmp_path_factory.mktemp("cases")
    for number, name in enumerate(CASES):
        published, model, tokens = build(name, seed=number)
        case = directory / name
        write_weights(whole_tensors(model), model.config, case / "saved")
        (case / "published.json").write_text(json.dumps(published))
        np.save(case / "tokens.npy", tokens)
    script = Path(__file__).with_name("transformers_llama.py")
    command = [str(transformers_python), str(script), str(directory)]
    peer = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert peer.returncode == 0, peer.stderr[-3000:]
    return directory


def build(name: str, seed: int) -> tuple[dict[str, Any], Decoder, np.ndarray]:
    """The published config of a case, its model with random weights, and tokens for it."""
    settings, own_settings, length = CASES[name]
    published = {**SMALL, **settings}
    config = llama.read_config({**published, **own_settings}, name)
    generator = np.random.default_rng(seed)

    def random_part(piece: Piece) -> np.ndarray:
        centre = 1.0 if "norm" in piece.name else 0.0
        return (centre + 0.2 * generator.standard_normal(piece.shape)).astype(np.float32)

    model = Decoder(config)
    fill(model, random_part)
    return published, model, generator.integers(0, config.vocab_size, (2, length))


def whole_tensors(model: Decoder) -> Iterator[tuple[str, np.ndarray]]:
    for parameter, piece in named_pieces(model):
        yield piece.name, parameter.numpy()[piece.region(0, 1)]


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize("name", CASES)
def test_logits_loss_and_every_gradient(name: str, cases: Path) -> None:
    _, model, tokens = build(name, seed=list(CASES).index(name))
    theirs = np.load(cases / name / "results.npz")
    logits = model(paddle.to_tensor(tokens))
    labels = np.concatenate([tokens[:, 1:], np.full((2, 1), -100)], axis=1)
    loss = language_model_loss(logits, paddle.to_tensor(labels), int((labels != -100).sum()))
    loss.backward()

    assert relative_error(logits.numpy(), theirs["logits"]) < TOLERANCE
    assert relative_error(loss.numpy(), theirs["loss"]) < TOLERANCE
    gradients = (
        (piece.name, parameter.grad.numpy()[piece.region(0, 1)])
        for parameter, piece in named_pieces(model)
    )
    compared = set()
    for published, gradient in as_published(gradients, model.config):
        error = relative_error(gradient, theirs[f"gradient/{published}"])
        assert error < TOLERANCE, published
        compared.add(f"gradient/{published}")
    assert compared == {key for key in theirs.files if key.startswith("gradient/")}


@pytest.mark.parametrize("name", CASES)
def test_saved_model_is_the_same_in_transformers(name: str, cases: Path) -> None:
    theirs = np.load(cases / name / "results.npz")
    np.testing.assert_array_equal(theirs["saved_logits"], theirs["logits"])


@pytest.mark.parametrize("name", CASES)
def test_config_that_transformers_writes_is_the_same_model(name: str, cases: Path) -> None:
    ours, theirs = (read_model_config(cases / name / folder) for folder in ("saved", "again"))
    assert unfused(theirs) == unfused(ours)


def unfused(config: ModelConfig) -> ModelConfig:
    """Without what transformers does not keep, or fills in."""
    from dataclasses import replace

    return replace(
        config, fuse_attention_qkv=False, fuse_attention_ffn=False,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip


@pytest.mark.parametrize("folder", ["again", "again-sharded"])
@pytest.mark.parametrize("name", CASES)
def test_weights_that_transformers_saved_load_bit_for_bit(
    name: str, folder: str, cases: Path
) -> None:
    _, model, _ = build(name, seed=list(CASES).index(name))
    directory = cases / name / folder
    is_sharded = (directory / "model.safetensors.index.json").exists()
    assert is_sharded == (folder == "again-sharded")
    loaded = Decoder(model.config)
    load_weights(loaded, model.config, directory)
    for ours, theirs in zip(model.parameters(), loaded.parameters(), strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


@pytest.mark.parametrize("name", ["llama-1", "grouped-tied-fused"])
def test_bfloat16_weights_that_transformers_saved(name: str, cases: Path) -> None:
    _, model, _ = build(name, seed=list(CASES).index(name))
    loaded = Decoder(model.config)
    load_weights(loaded, model.config, cases / name / "again-bfloat16")
    for ours, theirs in zip(model.parameters(), loaded.parameters(), strict=True):
        rounded = ours.astype("bfloat16").astype("float32")
        np.testing.assert_array_equal(rounded.numpy(), theirs.numpy())
