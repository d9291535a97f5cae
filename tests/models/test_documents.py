"""To the model, a document that is kept apart in its sample is what it is alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import paddle
import pytest

from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.data import BatchLoader, Sample
from llm_pretrain.data.documents import SamplesOfDocuments
from llm_pretrain.models.decoder import Decoder
from llm_pretrain.models.families import CAPABILITIES, FAMILIES, SEEDS
from llm_pretrain.parallel.micro_batch import MicroBatch, split_batch
from llm_pretrain.parallel.pieces import initialize
from llm_pretrain.parallel.vocabulary_loss import IGNORED_LABEL

END = 2
# Of each sample, where its second document begins.
BEGINS = (9, 14)
LENGTH = 24


def causal_seeds() -> dict[str, ModelConfig]:
    configs = {
        seed: FAMILIES[SEEDS[seed]["model_type"]].read_config(SEEDS[seed], seed)
        for seed in sorted(set(CAPABILITIES.values()))
    }
    return {seed: config for seed, config in configs.items() if config.blank_infilling is None}


CAUSAL = causal_seeds()


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
    dataset = SamplesOfDocuments(TwoDocuments(), (END,), apart=apart, counted_anew=counted_anew)
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
