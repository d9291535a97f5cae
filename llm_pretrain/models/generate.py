"""Continuing a text, token by token, on a single process."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import paddle
from numpy.typing import NDArray

from llm_pretrain.config.model_config import BlankInfilling, DynamicScaling, ModelConfig
from llm_pretrain.models.decoder import Decoder
from llm_pretrain.models.key_value_cache import KeyValueCache
from llm_pretrain.parallel.layers.micro_batch import Sequences


def generate(
    model: Decoder,
    prompt: Sequence[int],
    count: int,
    *,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    stop_tokens: Collection[int] = (),
    tell: Callable[[int], None] = lambda token: None,
) -> list[int]:
    """Up to `count` token ids that follow `prompt`.

    Args:
        prompt: token ids, at least one.
        temperature: 0 takes the most probable token, 1 draws from the model's distribution.
        top_p: draws from the fewest most probable tokens that together have this probability
            (arXiv:1904.09751).
        stop_tokens: each ends the text; it is not returned.
        tell: gets each token at once.

    A model that fills blanks (GLM) fills a long one that follows the prompt. Of a text longer than
    `max_position_embeddings` that many last tokens are seen. From there on each token takes the
    model over all of these again, since their positions change; up to there it takes the new token
    alone.
    """
    assert prompt, "a prompt holds at least one token"
    generator = np.random.default_rng(seed)
    found: list[int] = []
    with _evaluating(model):
        logits_of = _NextLogits(model, prompt)
        while len(found) < count:
            token = _choose(logits_of(found), temperature, top_p, generator)
            if token in stop_tokens:
                break
            found.append(token)
            tell(token)
    return found


class _NextLogits:
    """The logits, float32 [V], of the token after the prompt and what was found."""

    def __init__(self, model: Decoder, prompt: Sequence[int]) -> None:
        self._model = model
        self._prompt = list(prompt)
        self._room = model.config.max_position_embeddings
        self._blanks = model.config.blank_infilling
        self._kept = 0
        """Positions in the caches."""

    def __call__(self, found: Sequence[int]) -> NDArray[np.float32]:
        tokens = [*self._prompt, *found]
        prefix = None
        if self._blanks is not None:
            room = max(self._room - len(found) - 2, 1)
            context = [*self._prompt[-room:], self._blanks.gmask_token_id]
            prefix = len(context)
            tokens = [*context, self._blanks.start_token_id, *found]
        is_cut = len(self._prompt) + len(found) + 2 * (prefix is not None) > self._room
        seen = tokens if self._blanks is not None else tokens[-self._room :]
        if is_cut or not self._kept or _changes_with_length(self._model.config, len(seen)):
            self._kept = 0
            for block in self._model.blocks.values():
                block.attention.cache = KeyValueCache()
        sequences = _sequences(self._kept, len(seen), prefix, self._blanks)
        new = paddle.to_tensor([seen[self._kept :]], dtype="int64")
        self._kept = len(seen)
        return self._model(new, sequences)[0, -1].astype("float32").numpy()


def _sequences(
    first: int, length: int, prefix: int | None, blanks: BlankInfilling | None
) -> Sequences:
    """The positions from `first` on of one text, of which `prefix` tokens are the context."""
    if blanks is None or prefix is None:
        return Sequences(length, (0,), ((first, length),))
    positions = np.arange(length)
    in_block = np.maximum(positions - prefix + 1, 0)
    if blanks.block_positions:
        positions = np.minimum(positions, prefix - 1)
    return Sequences(
        length,
        (0,),
        ((first, length),),
        position_ids=positions[None],
        block_position_ids=in_block[None],
        prefix_ends=np.full((1, length), prefix),
    )


def _changes_with_length(model: ModelConfig, length: int) -> bool:
    """Whether a further token changes how those before it are turned."""
    if model.extrapolation is not None:
        return length > model.extrapolation.trained_length
    scaling = None if model.rope is None else model.rope.scaling
    return isinstance(scaling, DynamicScaling) and length > model.max_position_embeddings


@contextmanager
def _evaluating(model: Decoder) -> Iterator[None]:
    """Without dropout and gradients; the caches are gone afterwards."""
    was_training = model.training
    model.eval()
    try:
        with paddle.no_grad():
            yield
    finally:
        for block in model.blocks.values():
            block.attention.cache = None
        if was_training:
            model.train()


def _choose(
    logits: NDArray[np.float32], temperature: float, top_p: float, generator: np.random.Generator
) -> int:
    if temperature <= 0:
        return int(logits.argmax())
    with np.errstate(over="ignore"):  # the logarithm of nothing, at a temperature near 0
        weights = np.exp((logits - logits.max()).astype(np.float64) / temperature)
    weights /= weights.sum()
    if top_p < 1:
        order = np.argsort(-weights, kind="stable")
        before = np.cumsum(weights[order]) - weights[order]
        weights[order[before >= top_p]] = 0
        weights /= weights.sum()
    return int(generator.choice(len(weights), p=weights))
