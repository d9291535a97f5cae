"""Every architecture learns: it knows one batch by heart before long."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import paddle
import pytest

from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.models.decoder import Decoder
from llm_pretrain.models.families import CAPABILITIES, FAMILIES, SEEDS
from llm_pretrain.parallel.layers.micro_batch import MicroBatch, split_batch
from llm_pretrain.parallel.layers.vocabulary import IGNORED_LABEL
from llm_pretrain.parallel.sharding.pieces import initialize
from tests.models.blank_batches import batch_with_blanks

SAMPLES, LENGTH = 4, 24


def one_batch(config: ModelConfig) -> MicroBatch:
    """Samples as the model is trained on: with blanks, or to be continued."""
    if config.blank_infilling is not None:
        return batch_with_blanks(config, LENGTH, seed=1, samples=SAMPLES)
    tokens = np.random.default_rng(1).integers(0, config.vocab_size, (SAMPLES, LENGTH + 1))
    (batch,) = split_batch(tokens[:, :-1], tokens[:, 1:], SAMPLES, ignored_label=IGNORED_LABEL)
    return batch


@pytest.mark.parametrize("seed", sorted(set(CAPABILITIES.values())))
def test_overfits_one_batch(seed: str) -> None:
    published = SEEDS[seed]
    config = FAMILIES[published["model_type"]].read_config(published, seed)
    kinds = ("embedding_dropout", "hidden_dropout", "attention_dropout")
    model = Decoder(replace(config, **dict.fromkeys(kinds, 0.0)))
    initialize(model, seed=1)
    optimizer = paddle.optimizer.AdamW(3e-3, parameters=model.parameters(), beta2=0.95)
    batch = one_batch(config)
    for _ in range(150):
        losses = model(batch.tokens, batch.sequences, batch.labels)
        loss = losses.sum() / batch.label_count
        if float(loss) < 0.1:
            return
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
    pytest.fail(f"the loss is still {float(loss):.3f}")
