"""What a model and a layout demand of each other; test_bad_layouts.py has what runs are refused."""

from __future__ import annotations

from typing import Any

import pytest

from llm_pretrain.config import Degrees, check_layout, layout_notices
from llm_pretrain.config.model_config import (
    BlankInfilling,
    LearnedPositions,
    ModelConfig,
    Rope,
)

MODEL: dict[str, Any] = {
    "family": "llama",
    "vocab_size": 96,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "head_dim": 4,
    "max_position_embeddings": 1024,
    "norm_eps": 1e-5,
    "rope": Rope(),
}
AXES = ("data", "sharding", "tensor", "pipeline", "sep", "context", "virtual_pipeline")


def layout(**degrees: int) -> Degrees:
    return Degrees(**(dict.fromkeys(AXES, 1) | degrees))


def problems(run: Any, degrees: dict[str, int], **model: Any) -> list[str]:
    return check_layout(run, ModelConfig(**(MODEL | model)), layout(**degrees))


def notices(run: Any, degrees: dict[str, int], **model: Any) -> list[str]:
    return layout_notices(run, ModelConfig(**(MODEL | model)), layout(**degrees))


def test_a_model_that_fits(load) -> None:
    run, degrees = load(gradient_accumulation_steps=2), {"tensor": 4, "pipeline": 2, "data": 2}
    assert problems(run, degrees) == []
    assert notices(run, degrees) == []


def test_stages_may_hold_unequal_numbers_of_layers(load) -> None:
    assert problems(load(), {"pipeline": 3}) == []


def test_attention_heads_that_cannot_share_their_keys(load) -> None:
    (problem,) = problems(load(), {}, num_key_value_heads=5)
    assert problem == (
        "num_attention_heads 12 is no multiple of the model's 5 key–value heads; possible near it: "
        "10 or 15"
    )


def test_a_range_of_random_weights_that_are_read_is_told(load) -> None:
    (notice,) = notices(load(initializer_range=0.01, continue_training=True), {})
    assert notice == "initializer_range: no effect on the weights that continue_training reads"
    assert notices(load(initializer_range=0.01), {}) == []


def test_a_sequence_longer_than_the_table_of_positions(load) -> None:
    learned = {"rope": None, "learned_positions": LearnedPositions()}
    (problem,) = problems(load(max_seq_length=2048), {}, **learned)
    assert problem.endswith("have a vector for; it can be at most 1024")
    assert problems(load(max_seq_length=1024), {}, **learned) == []


def test_all_problems_are_told_together(load) -> None:
    run = load(max_seq_length=1023, no_recompute_layers=[4])
    found = problems(run, {"tensor": 5, "pipeline": 5, "context": 2})
    assert [problem.split()[0] for problem in found] == [
        "tensor_parallel_degree",
        "pipeline_parallel_degree",
        "max_seq_length",
        "no_recompute_layers",
    ]


def test_key_heads_and_a_vocabulary_that_are_not_divided_are_told_with_their_cost(load) -> None:
    run, degrees, model = load(), {"tensor": 4}, {"num_key_value_heads": 2, "vocab_size": 97}
    assert problems(run, degrees, **model) == []
    assert notices(run, degrees, **model) == [
        "tensor_parallel_degree: 2 key–value heads over 4 ranks: each rank keeps the weights of "
        "all of them",
        "tensor_parallel_degree: the vocabulary of 97 is padded to 100 rows for 4 ranks; the "
        "padding is not saved",
    ]


def test_a_pipeline_with_few_micro_batches_is_told(load) -> None:
    (notice,) = notices(load(gradient_accumulation_steps=3), {"pipeline": 4})
    assert "3 micro-batches cannot keep 4 pipeline stages busy" in notice
    assert notices(load(gradient_accumulation_steps=4), {"pipeline": 4}) == []


def test_sharding_over_one_process_is_told(load) -> None:
    (notice,) = notices(load(sharding="stage2"), {"data": 2})
    assert notice == "sharding: stage2 over one process changes nothing"


PIPELINE, SHARDING = "pipeline_parallel_config", "sharding_parallel_config"
SHARDED, REPLICATED, CONTEXT, ALONE = {"sharding": 2}, {"data": 2}, {"context": 2}, {"tensor": 2}


@pytest.mark.parametrize(
    ("key", "option", "use", "works_in", "is_idle_in"),
    [
        (
            PIPELINE,
            "enable_dp_comm_overlap",
            "data parallelism without sharding",
            [("", REPLICATED), ("", CONTEXT), ("stage1", REPLICATED)],
            [("", ALONE), ("stage1", SHARDED)],
        ),
        (
            PIPELINE,
            "enable_sharding_comm_overlap",
            "sharding over several ranks",
            [("stage1", SHARDED), ("stage3", SHARDED)],
            [("", REPLICATED), ("stage1", REPLICATED)],
        ),
        (
            SHARDING,
            "enable_stage1_overlap",
            "stage1 over several ranks",
            [("stage1", SHARDED)],
            [("stage2", SHARDED), ("stage1", REPLICATED)],
        ),
        (
            SHARDING,
            "enable_stage2_overlap",
            "stage2 and stage3 over several ranks",
            [("stage2", SHARDED), ("stage3", SHARDED)],
            [("stage1", SHARDED), ("stage2", REPLICATED)],
        ),
        *(
            (
                SHARDING,
                f"enable_stage1_{gather}_overlap",
                "stage1 and stage2 over several ranks",
                [("stage1", SHARDED), ("stage2", SHARDED)],
                [("stage3", SHARDED), ("", REPLICATED)],
            )
            for gather in ("allgather", "broadcast")
        ),
        (SHARDING, "enable_release_grads", "", [("", ALONE), ("stage3", SHARDED)], []),
    ],
)
def test_an_option_without_effect_in_a_layout_is_told(
    load, key: str, option: str, use: str, works_in: list[Any], is_idle_in: list[Any]
) -> None:
    line = f"{key} {option}: no effect in this layout: it is for {use}"
    for sharding, degrees in is_idle_in:
        assert line in notices(load(sharding=sharding, **{key: option}), degrees)
    for sharding, degrees in works_in:
        told = notices(load(sharding=sharding, **{key: option}), degrees)
        assert not [notice for notice in told if option in notice]


def test_a_dropout_that_the_model_does_not_have_is_told(load) -> None:
    assert notices(load(hidden_dropout_prob=0.2), {}) == [
        "hidden_dropout_prob: no effect: the model's config has no such dropout"
    ]
    assert notices(load(), {}) == []


def test_a_sequence_longer_than_the_model_was_made_for(load) -> None:
    (notice,) = notices(load(max_seq_length=2048), {})
    assert notice.startswith("max_seq_length: 2048 is longer than the 1024 positions")


RESETS = ["reset_attention_mask", "reset_position_ids"]


def test_documents_are_kept_apart_where_their_end_is_known(load) -> None:
    run = load(**dict.fromkeys(RESETS, True))
    for ends in (0, 2, (2, 3)):
        assert problems(run, {}, eos_token_id=ends) == []
    (problem,) = problems(run, {})
    assert problem == (
        "reset_attention_mask and reset_position_ids: documents end with the model's "
        "eos_token_id, but its config has none; add it to its config.json, or set "
        "reset_attention_mask and reset_position_ids to false"
    )


@pytest.mark.parametrize("key", RESETS)
def test_documents_with_blanks_are_kept_apart_too(load, key: str) -> None:
    model = {"blank_infilling": BlankInfilling(3, 4, 5, 2)}
    assert problems(load(**{key: True}), {}, eos_token_id=2, **model) == []
    (problem,) = problems(load(**{key: True}), {}, **model)
    assert problem.startswith(f"{key}: documents end with the model's eos_token_id")


def test_linear_biases_know_no_positions_to_reset(load) -> None:
    model = {"rope": None, "alibi": True}
    (notice,) = notices(load(reset_position_ids=True), {}, **model)
    assert notice.startswith("reset_position_ids: no effect")
    assert notices(load(reset_attention_mask=True), {}, **model) == []


def test_samples_with_blanks_are_not_cut(load) -> None:
    run = load(max_seq_length=64, length_ramp=[[0, 16], [1e9, 64]])
    assert problems(run, {}) == []
    (problem,) = problems(run, {}, blank_infilling=BlankInfilling(1, 2, 3, 4))
    assert problem == "length_ramp: samples with blanks can't be cut; leave it out for this model"
