"""Batches of samples with blanks, for the models that fill them."""

from __future__ import annotations

import numpy as np

from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.data import BatchLoader, Sample
from llm_pretrain.data.blanks import SamplesWithBlanks
from llm_pretrain.parallel.layers.micro_batch import MicroBatch, split_batch
from llm_pretrain.parallel.layers.vocabulary import IGNORED_LABEL


class RandomTexts:
    """Texts of random tokens."""

    def __init__(self, vocab_size: int, length: int, seed: int, samples: int) -> None:
        self.seed, self.samples = seed, samples
        self.vocab_size, self.length = vocab_size, length

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, number: int) -> Sample:
        generator = np.random.default_rng((self.seed, number))
        return Sample(generator.integers(0, self.vocab_size, self.length + 1), None)


def batch_with_blanks(config: ModelConfig, length: int, seed: int, samples: int = 3) -> MicroBatch:
    """A micro-batch of `samples` samples of `length` tokens, as training makes it."""
    assert config.blank_infilling is not None
    texts = RandomTexts(config.vocab_size, length, seed, samples)
    dataset = SamplesWithBlanks(texts, config.blank_infilling, seed)
    with BatchLoader(dataset, batch_size=samples, rank=0, degree=1, workers=0) as loader:
        batch = next(loader)
    (micro_batch,) = split_batch(
        batch.tokens,
        batch.labels,
        samples,
        ignored_label=IGNORED_LABEL,
        structure=batch.structure,
    )
    return micro_batch
