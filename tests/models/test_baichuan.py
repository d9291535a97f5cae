"""Baichuan 1 and 2: published configs and weights, and what they compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm_pretrain.checkpoint.load import load_weights
from llm_pretrain.checkpoint.write_weights import as_published, write_weights
from llm_pretrain.config import ConfigError, check_layout, load_run_config, resolve_degrees
from llm_pretrain.config.model_config import ModelConfig, Rope
from llm_pretrain.models.decoder import Decoder
from llm_pretrain.models.families import FAMILIES, load_model_config
from tests.models.baichuan_reference import outputs
from tests.models.seeds import seeds_of
from tests.peers import random_configs
from tests.peers.comparison import Case, assert_close, outputs_of, told, whole_tensors

baichuan = FAMILIES["baichuan"]
SEEDS = seeds_of("baichuan")

CONFIGS = Path(__file__).parents[2] / "configs" / "baichuan"
SMALL = {
    "model_type": "baichuan",
    "vocab_size": 67,
    "hidden_size": 40,
    "intermediate_size": 36,
    "num_hidden_layers": 2,
    "num_attention_heads": 5,
    "rms_norm_eps": 1e-6,
}
TURNED = {"max_position_embeddings": 512}
BIASED = {"model_max_length": 512}
FUSED = {"fuse_attention_qkv": True, "fuse_attention_ffn": True}
CASES = {
    "Baichuan-13B": Case({**SMALL, **BIASED}, FUSED, length=17),
    "Baichuan2-7B-several-blocks": Case({**SMALL, **TURNED, "z_loss_weight": 0}, length=300),
    "Baichuan2-13B-several-blocks": Case(
        {**SMALL, **BIASED, "z_loss_weight": 0, "num_attention_heads": 8}, FUSED, length=300
    ),
    **random_configs.random_cases(random_configs.baichuan2, range(12)),
}


def read(**changes: Any) -> ModelConfig:
    return baichuan.read_config({**SMALL, **changes}, "config.json")


def test_what_tells_the_models_apart() -> None:
    found = {
        name: (config.rope, config.alibi, config.norm_head)
        for name in SEEDS
        if (config := baichuan.read_config(SEEDS[name], name))
    }
    assert found["baichuan-inc/Baichuan-7B"] == (Rope(), False, False)
    assert found["baichuan-inc/Baichuan-13B-Chat"] == (None, True, False)
    assert found["baichuan-inc/Baichuan2-7B-Chat"] == (Rope(), False, True)
    assert found["baichuan-inc/Baichuan2-13B-Base"] == (None, True, True)


def test_alibi_is_taken_at_its_word() -> None:
    assert read(alibi=True, **TURNED).alibi
    assert read(alibi=False, **BIASED).rope == Rope()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"z_loss_weight": 0.1}, "z_loss_weight: 0.1: this program computes 0 only"),
        ({"num_key_value_heads": 1}, "num_key_value_heads: 1: this program computes 5 only"),
        ({"hidden_size": 41}, "hidden_size: 41 is not a multiple"),
    ],
)
def test_refused_with_the_reason(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(**changes)
    assert message in str(error.value)


@pytest.mark.parametrize("name", SEEDS)
def test_written_config_is_read_as_the_same_model(name: str) -> None:
    config = baichuan.read_config(SEEDS[name], name)
    assert baichuan.read_config(baichuan.write_config(config), name) == config


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("Baichuan-7B", "BaiChuan"),
        ("Baichuan-13B-Base", "Baichuan"),
        ("Baichuan2-7B-Base", "Baichuan"),
    ],
)
def test_transformers_finds_the_published_classes(name: str, prefix: str) -> None:
    """With the Python files of the published model beside what is written."""
    config = baichuan.read_config(SEEDS[f"baichuan-inc/{name}"], name)
    assert baichuan.write_config(config)["auto_map"] == {
        "AutoConfig": f"configuration_baichuan.{prefix}Config",
        "AutoModelForCausalLM": f"modeling_baichuan.{prefix}ForCausalLM",
    }


@pytest.mark.parametrize("name", CASES)
def test_logits_loss_and_every_gradient(name: str) -> None:
    case = CASES[name]
    with told(case):
        model, batch = case.build()
        weights = dict(as_published(whole_tensors(model), model.config))
        expected = outputs(case.published, weights, batch.tokens.numpy())
        assert_close(outputs_of(model, batch), expected, case.tolerance)


def test_weights_are_read_as_they_were_written(tmp_path: Path) -> None:
    model, _ = CASES["Baichuan-13B"].build()
    write_weights(whole_tensors(model), model.config, tmp_path)
    loaded = Decoder(read(**BIASED))
    load_weights(loaded, loaded.config, tmp_path)
    before, after = dict(whole_tensors(model)), dict(whole_tensors(loaded))
    assert before.keys() == after.keys()
    for name, values in before.items():
        np.testing.assert_array_equal(values, after[name])


def test_the_benchmark_of_13b_fits_eight_devices_with_its_published_batch() -> None:
    run = load_run_config(CONFIGS / "pretrain-baichuan2_13b-sd8_stage2.json")
    model = load_model_config(
        run.model.model_name_or_path, run.model, max_seq_length=run.data.max_seq_length
    )
    degrees = resolve_degrees(run.training, 8)
    assert (degrees.sharding, degrees.tensor) == (8, 1)
    assert check_layout(run, model, degrees) == []
    assert 8 * run.training.gradient_accumulation_steps == 64
    assert run.training.warmup == 1000
