"""Continuing a text, for a look at what a model has learned."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import paddle

from llm_pretrain.models.decoder import Decoder


def generate(
    model: Decoder,
    prompt: Sequence[int],
    count: int,
    *,
    temperature: float = 0.0,
    seed: int = 0,
    stop_token: int | None = None,
) -> list[int]:
    """Up to `count` token ids that follow `prompt`, on a single process.

    Args:
        prompt: token ids, at least one.
        temperature: 0 takes the most probable token, 1 draws from the model's distribution.
        stop_token: ends the text; it is not returned.

    Every token runs the model over the whole text again, of which the last
    `max_position_embeddings` tokens are seen: it is meant for short samples.
    """
    assert prompt, "a prompt holds at least one token"
    assert model.config.blank_infilling is None, "the model does not continue texts"
    generator = np.random.default_rng(seed)
    tokens = list(prompt)
    was_training = model.training
    model.eval()
    try:
        with paddle.no_grad():
            while len(tokens) < len(prompt) + count:
                seen = tokens[-model.config.max_position_embeddings :]
                logits = model(paddle.to_tensor([seen], dtype="int64"))[0, -1]
                token = _choose(logits.astype("float32").numpy(), temperature, generator)
                if token == stop_token:
                    break
                tokens.append(token)
    finally:
        if was_training:
            model.train()
    return tokens[len(prompt) :]


def _choose(logits: np.ndarray, temperature: float, generator: np.random.Generator) -> int:
    if temperature <= 0:
        return int(logits.argmax())
    scaled = (logits - logits.max()) / temperature
    weights = np.exp(scaled, dtype=np.float64)
    return int(generator.choice(len(weights), p=weights / weights.sum()))
