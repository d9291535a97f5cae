"""How probable a model finds given tokens, on a single process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import paddle

from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.models.decoder import Decoder
from llm_pretrain.parallel.layers.vocabulary import IGNORED_LABEL


@dataclass(frozen=True)
class Predicted:
    """Tokens of which those from `begin`, at least 1, are predicted from the ones before them."""

    tokens: Sequence[int]
    begin: int = 1


@dataclass(frozen=True)
class _Window:
    text: int
    """Number of the text."""
    inputs: Sequence[int]
    labels: Sequence[int]


def longest_window(model: ModelConfig) -> int:
    """Tokens that the model sees at a time as it was trained."""
    if model.extrapolation is None:
        return model.max_position_embeddings
    return min(model.extrapolation.trained_length, model.max_position_embeddings)


def losses(
    model: Decoder, texts: Iterable[Predicted], *, window: int, batch_size: int = 1
) -> Iterator[float]:
    """-ln p of each text's predicted tokens together, in nats, in the order of the texts.

    Args:
        window: tokens that are seen at a time. Of a text with more, the predicted tokens stand in
            windows one behind another, in which each is predicted from what precedes it there; if
            the last window holds them all, that alone is taken.
        batch_size: windows that pass the model together.
    """
    assert model.config.blank_infilling is None, "the model predicts blanks"
    windows = (part for number, text in enumerate(texts) for part in _windows(number, text, window))
    current: int | None = None
    total = 0.0
    while batch := list(islice(windows, batch_size)):
        for part, loss in zip(batch, _losses(model, batch), strict=True):
            if current is not None and part.text != current:
                yield total
                total = 0.0
            current = part.text
            total += loss
    if current is not None:
        yield total


def _windows(number: int, text: Predicted, size: int) -> Iterator[_Window]:
    tokens, end = text.tokens, len(text.tokens)
    assert 1 <= text.begin < end, "at least one token is predicted from another"
    if end - text.begin <= size:
        first = max(end - 1 - size, 0)
        labels = [
            token if place >= text.begin else IGNORED_LABEL
            for place, token in enumerate(tokens[first + 1 :], first + 1)
        ]
        yield _Window(number, tokens[first : end - 1], labels)
        return
    for first in range(text.begin - 1, end - 1, size):
        last = min(first + size, end - 1)
        yield _Window(number, tokens[first:last], tokens[first + 1 : last + 1])


def _losses(model: Decoder, batch: Sequence[_Window]) -> list[float]:
    # What stands behind a window's end is seen by nothing in it.
    length = max(len(window.inputs) for window in batch)
    inputs = np.zeros((len(batch), length), np.int64)
    labels = np.full((len(batch), length), IGNORED_LABEL, np.int64)
    for row, window in enumerate(batch):
        inputs[row, : len(window.inputs)] = window.inputs
        labels[row, : len(window.labels)] = window.labels
    model.eval()
    with paddle.no_grad():
        found = model(paddle.to_tensor(inputs), labels_BS=paddle.to_tensor(labels))
    return [float(row.sum()) for row in found.numpy().astype(np.float64)]
