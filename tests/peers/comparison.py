"""What the tests against other programs' models share: random models, and how they compare."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from llm_pretrain.checkpoint.weight_files import HUGGING_FACE, WeightFormat
from llm_pretrain.checkpoint.write_weights import as_published
from llm_pretrain.models.decoder import Decoder
from llm_pretrain.models.families import FAMILIES
from llm_pretrain.parallel.layers.micro_batch import MicroBatch, split_batch
from llm_pretrain.parallel.layers.vocabulary import IGNORED_LABEL
from llm_pretrain.parallel.sharding.pieces import Piece, fill, named_pieces
from tests.models.blank_batches import batch_with_blanks

# A gradient that is zero in theory: without rotation, a key's bias moves no probability.
_ROUNDING = 5e-7

Tensors = Iterable[tuple[str, np.ndarray]]


@dataclass(frozen=True)
class Case:
    """A model with random weights, and a random batch for it."""

    published: dict[str, Any]
    """The config.json of the other program."""
    own: dict[str, Any] = field(default_factory=dict)
    """What only this program knows, such as the fusion of weights."""
    length: int = 24
    """Tokens of a sample."""
    samples: int = 2
    seed: int = 0
    """Of weights and tokens."""
    tolerance: float = 1e-5
    """Of `assert_close`."""
    format: WeightFormat = HUGGING_FACE
    """In which the other program gets weights, and a config unless it is Hugging Face's."""

    def build(self) -> tuple[Decoder, MicroBatch]:
        """The model and the batch, with blanks if the model fills them; always the same ones."""
        family = FAMILIES[self.published["model_type"]]
        config = family.read_config({**self.published, **self.own}, "config.json")
        generator = np.random.default_rng(self.seed)

        def random_part(piece: Piece) -> np.ndarray:
            centre = 1.0 if piece.name.endswith("norm.weight") else 0.0
            # Larger ones would drive wide models to where float32 has few digits left.
            spread = min(0.2, piece.shape[0] ** -0.5) if len(piece.shape) > 1 else 0.2
            return (centre + spread * generator.standard_normal(piece.shape)).astype(np.float32)

        model = Decoder(config)
        fill(model, random_part)
        if config.blank_infilling is not None:
            return model, batch_with_blanks(config, self.length, self.seed, self.samples)
        tokens = generator.integers(0, config.vocab_size, (self.samples, self.length))
        labels = np.concatenate([tokens[:, 1:], np.full((len(tokens), 1), IGNORED_LABEL)], axis=1)
        (batch,) = split_batch(tokens, labels, len(tokens), ignored_label=IGNORED_LABEL)
        return model, batch


@contextmanager
def told(case: Case) -> Iterator[None]:
    """What goes wrong within is told with the case."""
    try:
        yield
    except Exception as error:
        raise AssertionError(f"{error}\nIn {case}") from error


def run_peer(python: Path, script: Path, directory: Path) -> None:
    """Run `script` on `directory` in another program's environment."""
    command = [str(python), str(script), str(directory)]
    peer = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert peer.returncode == 0, peer.stderr[-3000:]


def whole_tensors(model: Decoder) -> Iterator[tuple[str, np.ndarray]]:
    """Canonical names and values of a model on one process."""
    for parameter, piece in named_pieces(model):
        yield piece.name, parameter.numpy()[piece.region(0, 1)]


def outputs_of(
    model: Decoder, batch: MicroBatch, weight_format: WeightFormat = HUGGING_FACE
) -> dict[str, np.ndarray]:
    """ "logits", "loss", and "gradient/…" of every parameter under its name in `weight_format`."""
    with paddle.no_grad():
        logits = model(batch.tokens, batch.sequences)
    loss = model(batch.tokens, batch.sequences, batch.labels).sum() / batch.label_count
    loss.backward()
    gradients: Tensors = (
        (piece.name, parameter.grad.numpy()[piece.region(0, 1)])
        for parameter, piece in named_pieces(model)
    )
    published = as_published(gradients, model.config, weight_format)
    return {
        "logits": logits.numpy(),
        "loss": loss.numpy(),
        **{f"gradient/{name}": values for name, values in published},
    }


def assert_close(
    ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray], tolerance: float
) -> None:
    """The same names and shapes, and no value off by more than that part of the largest."""
    assert ours.keys() == theirs.keys(), ours.keys() ^ theirs.keys()
    for name, mine in ours.items():
        assert mine.shape == theirs[name].shape, name
        error, size = np.abs(mine - theirs[name]).max(), np.abs(theirs[name]).max()
        assert error <= max(tolerance * size, _ROUNDING), (
            f"{name}: off by {error:.2g} of {size:.2g}"
        )


def once_for_each(
    factory: pytest.TempPathFactory, run: Callable[[str, Path], None]
) -> Callable[[str], Path]:
    """A family's folder, which `run` fills when it is first asked for."""

    @cache
    def directory_of(family: str) -> Path:
        directory = factory.mktemp(family)
        run(family, directory)
        return directory

    return directory_of
