"""To the model, a document that is kept apart in its sample is what it is alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import paddle
import pytest

from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.data import BatchLoader, Sample
from llm_pretrain.data.blanks import SamplesWithBlanks
from llm_pretrain.data.samples import Dataset, Isolation, SamplesOfDocuments
from llm_pretrain.models.decoder import Decoder
from llm_pretrain.models.families import CAPABILITIES, FAMILIES, SEEDS
from llm_pretrain.ops import dispatch
from llm_pretrain.ops.native import library
from llm_pretrain.parallel.layers.micro_batch import MicroBatch, Sequences, split_batch
from llm_pretrain.parallel.layers.vocabulary import IGNORED_LABEL
from llm_pretrain.parallel.sharding.pieces import initialize
from tests import cpp_operators

END = 2
# Of each sample, where its second document begins.
BEGINS = (9, 14)
LENGTH = 24


CONFIGS = {
    seed: FAMILIES[SEEDS[seed]["model_type"]].read_config(SEEDS[seed], seed)
    for seed in sorted(set(CAPABILITIES.values()))
}
CAUSAL = {seed: config for seed, config in CONFIGS.items() if config.blank_infilling is None}
WITH_BLANKS = {seed: config for seed, config in CONFIGS.items() if seed not in CAUSAL}


def test_every_causal_model_type_has_a_seed() -> None:
    """A family with none in the capability table would pass the test below by its absence."""
    seeds = set(CAPABILITIES.values())
    causal = {SEEDS[seed]["model_type"] for seed in CAUSAL}
    with_blanks = {SEEDS[seed]["model_type"] for seed in seeds - CAUSAL.keys()}
    assert causal == FAMILIES.keys() - with_blanks


class TwoDocuments:
    """Samples of random tokens of which the last of each first document is END."""

    def __len__(self) -> int:
        return len(BEGINS)

    def __getitem__(self, number: int) -> Sample:
        tokens = np.random.default_rng(number).integers(END + 1, 130, LENGTH + 1)
        tokens[BEGINS[number] - 1] = END
        return Sample(tokens, None)


def batch_of_documents(*, apart: bool, counted_anew: bool) -> MicroBatch:
    return batch_of(SamplesOfDocuments(TwoDocuments(), Isolation((END,), apart, counted_anew)))


def batch_of(dataset: Dataset) -> MicroBatch:
    with BatchLoader(dataset, batch_size=len(BEGINS), rank=0, degree=1, workers=0) as loader:
        batch = next(loader)
    (micro_batch,) = split_batch(
        batch.tokens,
        batch.labels,
        len(BEGINS),
        ignored_label=IGNORED_LABEL,
        structure=batch.structure,
    )
    return micro_batch


def largest_difference(model: Decoder, *, apart: bool, counted_anew: bool) -> float:
    """Between the logits of the documents in their samples and those of each alone."""
    batch = batch_of_documents(apart=apart, counted_anew=counted_anew)
    together = model(batch.tokens, batch.sequences).numpy()
    differences = []
    for row, begin in enumerate(BEGINS):
        for place in (slice(0, begin), slice(begin, LENGTH)):
            alone = model(batch.tokens[row : row + 1, place]).numpy()[0]
            differences.append(float(np.abs(together[row, place] - alone).max()))
    return max(differences)


@pytest.mark.parametrize("flash", [False, True], ids=["plain", "flash"])
@pytest.mark.parametrize("seed", CAUSAL)
def test_a_document_has_the_logits_that_it_has_alone(seed: str, flash: bool) -> None:
    config = CAUSAL[seed]
    model = Decoder(replace(config, use_flash_attention=flash))
    initialize(model, seed=1)
    model.eval()
    with paddle.no_grad():
        assert largest_difference(model, apart=True, counted_anew=True) < 1e-5
        # What would pass without isolation proves nothing.
        assert largest_difference(model, apart=False, counted_anew=True) > 1e-3
        uncounted = largest_difference(model, apart=True, counted_anew=False)
    # Rotation and linear biases know distances alone; only learned vectors know a position.
    assert (uncounted > 1e-3) == (config.learned_positions is not None)


@pytest.fixture(params=["reference", "C++"])
def operators(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.param == "C++":
        found, reason = library.find()
        if found is None:
            pytest.skip(reason)
        assert cpp_operators.serve()
    yield
    dispatch.use_references()


def batch_with_blanks(config: ModelConfig, *, apart: bool, counted_anew: bool) -> MicroBatch:
    assert config.blank_infilling is not None
    isolation = Isolation((END,), apart, counted_anew)
    return batch_of(SamplesWithBlanks(TwoDocuments(), config.blank_infilling, 1, isolation))


def parts_of(whole: MicroBatch) -> Iterator[tuple[int, slice, Sequences]]:
    """Row and places of every document in the batch, and what the model knows of it alone.

    `whole` counts positions anew and keeps the documents apart.
    """
    sequences = whole.sequences
    assert sequences.prefix_ends is not None
    assert sequences.document_starts is not None
    for row, starts in enumerate(sequences.document_starts):
        begins = np.unique(starts)
        assert len(begins) >= 2
        for begin, end in zip(begins, [*begins[1:], LENGTH], strict=True):
            length, here = int(end - begin), slice(begin, end)

            def of_part(array: np.ndarray | None, row: int = row, here: slice = here) -> Any:
                return None if array is None else array[row : row + 1, here]

            alone = Sequences(
                length,
                (0,),
                ((0, length),),
                prefix_ends=of_part(sequences.prefix_ends) - begin,
                position_ids=of_part(sequences.position_ids),
                block_position_ids=of_part(sequences.block_position_ids),
            )
            yield row, here, alone


def with_gradients(
    model: Decoder, inputs: list[tuple[paddle.Tensor, Sequences, paddle.Tensor]]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Logits of each (tokens, sequences, weights of logits), and all parameters' gradients."""
    model.clear_gradients()
    found = []
    for tokens, sequences, weights in inputs:
        logits = model(tokens, sequences)
        (logits * weights).sum().backward()
        found.append(logits.numpy())
    return found, [parameter.grad.numpy() for parameter in model.parameters()]


def differences_with_blanks(model: Decoder, *, apart: bool, counted_anew: bool) -> list[float]:
    """The largest of logits and of gradients, between documents in samples and each alone."""
    batch = batch_with_blanks(model.config, apart=apart, counted_anew=counted_anew)
    weights = paddle.to_tensor(
        np.random.default_rng(0).standard_normal((*batch.tokens.shape, model.config.vocab_size))
    ).astype("float32")
    (together,), gradients = with_gradients(model, [(batch.tokens, batch.sequences, weights)])
    whole = batch_with_blanks(model.config, apart=True, counted_anew=True)
    parts = list(parts_of(whole))
    alone, gradients_alone = with_gradients(
        model,
        [
            (batch.tokens[row : row + 1, here], sequences, weights[row : row + 1, here])
            for row, here, sequences in parts
        ],
    )
    of_logits = [
        np.abs(together[row, here] - logits[0]).max()
        for (row, here, _), logits in zip(parts, alone, strict=True)
    ]
    of_gradients = [
        np.abs(one - other).max() / np.abs(other).max()
        for one, other in zip(gradients, gradients_alone, strict=True)
    ]
    return [float(max(of_logits)), float(max(of_gradients))]


@pytest.mark.parametrize("flash", [False, True], ids=["plain", "flash"])
@pytest.mark.parametrize("seed", WITH_BLANKS)
def test_a_document_with_blanks_is_what_it_is_alone(
    seed: str, flash: bool, operators: None
) -> None:
    model = Decoder(replace(WITH_BLANKS[seed], use_flash_attention=flash))
    initialize(model, seed=1)
    model.eval()
    assert max(differences_with_blanks(model, apart=True, counted_anew=True)) < 1e-5
    assert min(differences_with_blanks(model, apart=False, counted_anew=True)) > 1e-3
    # Rotation knows distances alone.
    assert max(differences_with_blanks(model, apart=True, counted_anew=False)) < 1e-5
