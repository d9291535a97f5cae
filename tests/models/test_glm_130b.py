"""GLM-130B against a second implementation, written from its paper."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest

from llm_pretrain.checkpoint.write_weights import as_published
from llm_pretrain.models.families.chatglm_seeds import SEEDS
from tests.models import glm_reference
from tests.models.blank_batches import batch_with_blanks
from tests.peers.comparison import Case, assert_close, built, outputs_of_batch, whole_tensors


def glm(**changes: Any) -> dict[str, Any]:
    dropout = {"hidden_dropout": 0.0, "attention_dropout": 0.0}
    return {**SEEDS["tiny/glm-130b"], "num_layers": 2, **dropout, **changes}


FUSED = {"fuse_attention_qkv": True, "fuse_attention_ffn": True}
CASES = {
    "as-published": Case(glm(), length=21),
    "long-blanks": Case(glm(gpt_prob=1.0, num_layers=3), FUSED, length=33),
    "short-blanks": Case(glm(gpt_prob=0.0, hidden_size=24, num_attention_heads=3), length=37),
    "whole-gradient": Case(
        glm(shrink_embedding_gradient_alpha=1.0, inner_hidden_size=50, layernorm_epsilon=1e-3),
        length=16,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_logits_loss_and_every_gradient(name: str) -> None:
    model, _ = built(CASES, name)
    config = model.config
    batch = batch_with_blanks(config, CASES[name].length, seed=list(CASES).index(name))
    logits, loss, gradients = outputs_of_batch(model, batch)
    ours = {"logits": logits, "loss": loss}
    for published, gradient in as_published(gradients, config):
        ours[published] = gradient

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
    theirs = {"logits": paddle.stack(expected).numpy(), "loss": expected_loss.numpy()}
    theirs |= {published: values.grad.numpy() for published, values in weights.items()}
    assert_close(ours, theirs)
