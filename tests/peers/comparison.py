"""What the tests against other programs' models share: random models, and how they compare."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from llm_pretrain.checkpoint.load import load_weights
from llm_pretrain.checkpoint.write_weights import as_published, write_weights
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.models.decoder import Decoder
from llm_pretrain.models.families import FAMILIES, read_model_config
from llm_pretrain.parallel.micro_batch import MicroBatch, split_batch
from llm_pretrain.parallel.pieces import Piece, fill, named_pieces
from llm_pretrain.parallel.vocabulary_loss import IGNORED_LABEL

TOLERANCE = 1e-5
# A gradient that is zero in theory: without rotation, a key's bias moves no probability.
_ROUNDING = 1e-7
_TRANSFORMERS = Path(__file__).with_name("transformers_harness.py")
_PADDLENLP = Path(__file__).with_name("paddlenlp_harness.py")

Tensors = Iterable[tuple[str, np.ndarray]]


@dataclass(frozen=True)
class Case:
    """A model with random weights, and random tokens for it."""

    published: dict[str, Any]
    """The config.json of the other program."""
    own: dict[str, Any] = field(default_factory=dict)
    """What only this program knows, such as the fusion of weights."""
    length: int = 24
    """Tokens of a sample."""

    def build(self, seed: int) -> tuple[Decoder, np.ndarray]:
        """The model, and tokens [2, length]; the same ones for the same seed."""
        family = FAMILIES[self.published["model_type"]]
        config = family.read_config({**self.published, **self.own}, "config.json")
        generator = np.random.default_rng(seed)

        def random_part(piece: Piece) -> np.ndarray:
            centre = 1.0 if piece.name.endswith("norm.weight") else 0.0
            return (centre + 0.2 * generator.standard_normal(piece.shape)).astype(np.float32)

        model = Decoder(config)
        fill(model, random_part)
        return model, generator.integers(0, config.vocab_size, (2, self.length))


def built(cases: Mapping[str, Case], name: str) -> tuple[Decoder, np.ndarray]:
    """The model and the tokens of one of `cases`."""
    return cases[name].build(seed=list(cases).index(name))


def run_transformers(python: Path, cases: Mapping[str, Case], directory: Path) -> None:
    """Fill a folder per case with what transformers makes of it (see transformers_harness.py)."""
    _write(cases, directory)
    run_peer(python, _TRANSFORMERS, directory)


def run_paddlenlp(python: Path, cases: Mapping[str, Case], directory: Path) -> None:
    """Fill a folder per case with what PaddleNLP makes of it (see paddlenlp_harness.py)."""
    _write(cases, directory)
    run_peer(python, _PADDLENLP, directory)


def _write(cases: Mapping[str, Case], directory: Path) -> None:
    for name, case in cases.items():
        model, tokens = built(cases, name)
        write_weights(whole_tensors(model), model.config, directory / name / "saved")
        (directory / name / "published.json").write_text(json.dumps(case.published))
        np.save(directory / name / "tokens.npy", tokens)


def run_peer(python: Path, script: Path, directory: Path) -> None:
    """Run `script` on `directory` in another program's environment."""
    command = [str(python), str(script), str(directory)]
    peer = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert peer.returncode == 0, peer.stderr[-3000:]


def whole_tensors(model: Decoder) -> Iterator[tuple[str, np.ndarray]]:
    """Canonical names and values of a model on one process."""
    for parameter, piece in named_pieces(model):
        yield piece.name, parameter.numpy()[piece.region(0, 1)]


def outputs_of(model: Decoder, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray, Tensors]:
    """Logits, the loss of predicting every next token, and gradients under canonical names."""
    labels = np.concatenate([tokens[:, 1:], np.full((len(tokens), 1), IGNORED_LABEL)], axis=1)
    (batch,) = split_batch(tokens, labels, len(tokens), ignored_label=IGNORED_LABEL)
    return outputs_of_batch(model, batch)


def outputs_of_batch(model: Decoder, batch: MicroBatch) -> tuple[np.ndarray, np.ndarray, Tensors]:
    """Logits, loss, and gradients under canonical names."""
    with paddle.no_grad():
        logits = model(batch.tokens, batch.sequences)
    loss = model(batch.tokens, batch.sequences, batch.labels).sum() / batch.label_count
    loss.backward()
    gradients = [
        (piece.name, parameter.grad.numpy()[piece.region(0, 1)])
        for parameter, piece in named_pieces(model)
    ]
    return logits.numpy(), loss.numpy(), gradients


def assert_equal_outputs(
    model: Decoder, tokens: np.ndarray, theirs: Mapping[str, np.ndarray]
) -> None:
    """Compare logits, loss and every parameter's gradient with "logits", "loss", "gradient/…"."""
    logits, loss, gradients = outputs_of(model, tokens)
    ours = {"logits": logits, "loss": loss}
    ours |= {f"gradient/{name}": values for name, values in as_published(gradients, model.config)}
    assert_close(ours, {name: theirs[name] for name in theirs if name != "saved_logits"})


def assert_close(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> None:
    """The same names and shapes, and no value off by more than `TOLERANCE` of the largest."""
    assert ours.keys() == theirs.keys()
    for name, mine in ours.items():
        assert mine.shape == theirs[name].shape, name
        error, size = np.abs(mine - theirs[name]).max(), np.abs(theirs[name]).max()
        assert error < max(TOLERANCE * size, _ROUNDING), f"{name}: off by {error / size:.2g}"


def assert_like_transformers(cases: Mapping[str, Case], name: str, directory: Path) -> None:
    """One of `cases` computes, and is read and written, as transformers does it.

    `directory` is what `run_transformers` has filled.
    """
    model, tokens = built(cases, name)
    folder = directory / name
    theirs = np.load(folder / "results.npz")
    assert_equal_outputs(model, tokens, theirs)
    np.testing.assert_array_equal(theirs["saved_logits"], theirs["logits"])
    assert _kept(read_model_config(folder / "again")) == _kept(model.config)
    for saved, is_sharded in (("again", False), ("again-sharded", True)):
        assert (folder / saved / "model.safetensors.index.json").exists() == is_sharded
        loaded = Decoder(model.config)
        load_weights(loaded, model.config, folder / saved)
        for mine, their in zip(model.parameters(), loaded.parameters(), strict=True):
            np.testing.assert_array_equal(mine.numpy(), their.numpy())


def _kept(config: ModelConfig) -> ModelConfig:
    """Without what transformers does not keep, or fills in."""
    return replace(
        config,
        fuse_attention_qkv=False,
        fuse_attention_ffn=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
