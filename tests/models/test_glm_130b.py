"""GLM-130B against a second implementation, written from its paper."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from llm_pretrain.checkpoint.write_weights import as_published
from llm_pretrain.models.decoder import Decoder
from llm_pretrain.parallel.layers.micro_batch import MicroBatch
from tests.models import glm_reference
from tests.models.seeds import seeds_of
from tests.peers import random_configs
from tests.peers.comparison import Case, assert_close, outputs_of, told, whole_tensors

SEEDS = seeds_of("chatglm")

TINY = {**SEEDS["tiny/glm-130b"], "hidden_dropout": 0.0, "attention_dropout": 0.0}
CASES = {
    "as-published": Case(TINY, length=21),
    "shortest": Case({**TINY, "num_layers": 2}, length=16),
    **random_configs.random_cases(random_configs.glm_130b, range(10)),
}


@pytest.mark.parametrize("name", CASES)
def test_logits_loss_and_every_gradient(name: str) -> None:
    case = CASES[name]
    with told(case):
        model, batch = case.build()
        assert_close(outputs_of(model, batch), expected_outputs(model, batch), case.tolerance)


def expected_outputs(model: Decoder, batch: MicroBatch) -> dict[str, np.ndarray]:
    """What the second implementation makes of the model's weights."""
    config = model.config
    weights = {}
    for published, values in as_published(whole_tensors(model), config):
        weights[published] = paddle.to_tensor(values.astype(np.float64), stop_gradient=False)
    assert batch.sequences.position_ids is not None
    assert batch.sequences.prefix_ends is not None
    expected = [
        glm_reference.logits_of(
            weights,
            tokens,
            positions,
            int(prefix[0]),
            layers=config.num_hidden_layers,
            heads=config.num_attention_heads,
            epsilon=config.norm_eps,
            gradient_share=config.embedding_gradient_share,
        )
        for tokens, positions, prefix in zip(
            batch.tokens.numpy(),
            batch.sequences.position_ids,
            batch.sequences.prefix_ends,
            strict=True,
        )
    ]
    expected_loss = glm_reference.loss_of(expected, batch.labels.numpy())
    expected_loss.backward()
    gradients = {f"gradient/{name}": values.grad.numpy() for name, values in weights.items()}
    return {
        "logits": paddle.stack(expected).numpy(),
        "loss": expected_loss.numpy(),
        **gradients,
    }
