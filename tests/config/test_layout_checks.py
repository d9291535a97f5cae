from __future__ import annotations

from typing import Any

import pytest

from llm_pretrain.config import Degrees, check_layout, layout_notices
from llm_pretrain.config.model_config import ModelConfig, Rope

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


def problems(run: Any, degrees: dict[str, int], **model: Any) -> list[str]:
    ones = dict.fromkeys(
        ("data", "sharding", "tensor", "pipeline", "sep", "context", "virtual_pipeline"), 1
    )
    return check_layout(run, ModelConfig(**(MODEL | model)), Degrees(**(ones | degrees)))


def test_a_model_that_fits(load) -> None:
    assert problems(load(), {"tensor": 4, "pipeline": 2, "data": 2}) == []


@pytest.mark.parametrize(
    ("degrees", "model", "message"),
    [
        ({"tensor": 4}, {"num_attention_heads": 6, "num_key_value_heads": 6}, "attention heads, 6"),
        ({"tensor": 4}, {"num_key_value_heads": 2}, "key–value heads, 2"),
        ({"tensor": 4}, {"vocab_size": 98}, "vocabulary, 98"),
        ({"tensor": 4}, {"intermediate_size": 98}, "feed-forward width, 98"),
        ({"pipeline": 5}, {}, "pipeline_parallel_degree 5 is more than the model's layers, 4"),
        (
            {"pipeline": 2, "virtual_pipeline": 3},
            {},
            "pipeline_parallel_degree 2 × virtual_pp_degree 3 is more than the model's layers",
        ),
        ({"sep": 8}, {}, "sep_parallel_degree 8 does not divide the model's attention heads"),
        ({"context": 3}, {}, "max_seq_length 1024 cannot be cut into the 6 parts"),
        ({}, {"num_key_value_heads": 5}, "no multiple of the model's key–value heads"),
    ],
)
def test_what_does_not_divide(
    load, degrees: dict[str, int], model: dict[str, Any], message: str
) -> None:
    assert any(message in problem for problem in problems(load(), degrees, **model))


def test_stages_may_hold_unequal_numbers_of_layers(load) -> None:
    assert problems(load(), {"pipeline": 3}) == []


def test_a_sequence_that_sep_cannot_cut(load) -> None:
    (problem,) = problems(load(max_seq_length=1026), {"sep": 4})
    assert problem == "max_seq_length 1026 cannot be cut into the 4 parts of sep_parallel_degree"


def test_layers_that_the_model_does_not_have(load) -> None:
    (problem,) = problems(load(no_recompute_layers=[1, 4, 9]), {})
    assert problem == "no_recompute_layers names 4, 9, but the model has layers 0 to 3"


def test_all_problems_are_told_together(load) -> None:
    found = problems(load(), {"tensor": 5, "pipeline": 5})
    assert len(found) == 5


def test_a_pipeline_with_few_micro_batches_is_told(load) -> None:
    ones = dict.fromkeys(("data", "sharding", "tensor", "sep", "context", "virtual_pipeline"), 1)
    degrees = Degrees(**ones, pipeline=4)
    (notice,) = layout_notices(load(gradient_accumulation_steps=3), ModelConfig(**MODEL), degrees)
    assert "3 micro-batches cannot keep 4 pipeline stages busy" in notice
    full = load(gradient_accumulation_steps=4)
    assert layout_notices(full, ModelConfig(**MODEL), degrees) == []


def test_a_dropout_that_the_model_does_not_have_is_told(load) -> None:
    ones = dict.fromkeys(
        ("data", "sharding", "tensor", "pipeline", "sep", "context", "virtual_pipeline"), 1
    )
    told = layout_notices(load(hidden_dropout_prob=0.2), ModelConfig(**MODEL), Degrees(**ones))
    assert told == ["hidden_dropout_prob: no effect: the model's config has no such dropout"]
    assert layout_notices(load(), ModelConfig(**MODEL), Degrees(**ones)) == []


def test_a_sequence_longer_than_the_model_was_made_for(load) -> None:
    ones = dict.fromkeys(
        ("data", "sharding", "tensor", "pipeline", "sep", "context", "virtual_pipeline"), 1
    )
    run = load(max_seq_length=2048)
    (notice,) = layout_notices(run, ModelConfig(**MODEL), Degrees(**ones))
    assert notice.startswith("max_seq_length: 2048 is longer than the 1024 positions")
