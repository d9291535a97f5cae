"""Every architecture learns: it knows one batch by heart before long."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import paddle
import pytest

from llm_pretrain.models.decoder import Decoder
from llm_pretrain.models.families import CAPABILITIES, FAMILIES, SEEDS
from llm_pretrain.parallel.pieces import initialize


@pytest.mark.parametrize("seed", sorted(set(CAPABILITIES.values())))
def test_overfits_one_batch(seed: str) -> None:
    published = SEEDS[seed]
    config = FAMILIES[published["model_type"]].read_config(published, seed)
    kinds = ("embedding_dropout", "hidden_dropout", "attention_dropout")
    model = Decoder(replace(config, **dict.fromkeys(kinds, 0.0)))
    initialize(model, seed=1)
    optimizer = paddle.optimizer.AdamW(3e-3, parameters=model.parameters(), beta2=0.95)
    samples = np.random.default_rng(1).integers(0, config.vocab_size, (4, 25))
    tokens, labels = paddle.to_tensor(samples[:, :-1]), paddle.to_tensor(samples[:, 1:])
    for _ in range(150):
        loss = model(tokens, labels_BS=labels).mean()
        if float(loss) < 0.1:
            return
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
    pytest.fail(f"the loss is still {float(loss):.3f}")
