"""Published configs and weights of ChatGLM-6B and GLM-130B."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm_pretrain.checkpoint.load import load_weights
from llm_pretrain.checkpoint.write_weights import as_published, write_weights
from llm_pretrain.config import ConfigError
from llm_pretrain.config.model_config import BlankInfilling, ModelConfig
from llm_pretrain.models.decoder import Decoder
from llm_pretrain.models.families import FAMILIES
from llm_pretrain.parallel.sharding.pieces import initialize
from tests.models.seeds import seeds_of
from tests.peers.comparison import whole_tensors

chatglm = FAMILIES["chatglm"]
chatglm2 = FAMILIES["chatglm_v2"]
SEEDS = seeds_of("chatglm")

# As ChatGLM-6B's repository has it.
PUBLISHED = {
    "_name_or_path": "THUDM/chatglm-6b",
    "architectures": ["ChatGLMModel"],
    "bos_token_id": 130004,
    "eos_token_id": 130005,
    "mask_token_id": 130000,
    "gmask_token_id": 130001,
    "pad_token_id": 3,
    "hidden_size": 4096,
    "inner_hidden_size": 16384,
    "layernorm_epsilon": 1e-05,
    "max_sequence_length": 2048,
    "model_type": "chatglm",
    "num_attention_heads": 32,
    "num_layers": 28,
    "position_encoding_2d": True,
    "torch_dtype": "float16",
    "transformers_version": "4.23.1",
    "use_cache": True,
    "vocab_size": 130528,
}
TINY = ["tiny/chatglm", "tiny/glm-130b"]


def read(name: str = "tiny/chatglm", **changes: Any) -> ModelConfig:
    return chatglm.read_config({**SEEDS[name], **changes}, "config.json")


def counted(vocabulary: int, hidden: int, inner: int, layers: int, up: int) -> int:
    """Table, final norm, and layers of two norms and four matrices, all with biases."""
    attention = 4 * hidden * hidden + 4 * hidden
    feed_forward = (up + 1) * hidden * inner + up * inner + hidden
    return vocabulary * hidden + 2 * hidden + layers * (4 * hidden + attention + feed_forward)


def test_sizes_are_the_published_ones() -> None:
    chatglm_6b, glm_130b = read("THUDM/chatglm-6b"), read("THUDM/glm-130b")
    assert chatglm_6b.parameter_count() == 6_173_286_400
    assert counted(130528, 4096, 16384, 28, up=1) == 6_173_286_400
    assert glm_130b.parameter_count() == 128_697_794_560
    assert counted(150528, 12288, 32768, 70, up=2) == 128_697_794_560


def test_first_release_is_as_large_as_its_files() -> None:
    """13,744,473,856 bytes by their index: float16, but norms in float32; the table is there twice,
    and every layer has 32 frequencies."""
    config = read("THUDM/chatglm-6b", vocab_size=150528, mask_token_id=0, gmask_token_id=1)
    norms, table = (28 * 4 + 2) * 4096, 150528 * 4096
    assert 2 * (config.parameter_count() + norms + table + 28 * 32) == 13_744_473_856


def test_published_file() -> None:
    assert chatglm.read_config(PUBLISHED, "") == read("THUDM/chatglm-6b")


def test_names_of_paddlenlp() -> None:
    theirs = {**PUBLISHED, "num_hidden_layers": 28}
    del theirs["num_layers"]
    assert chatglm.read_config(theirs, "") == read("THUDM/chatglm-6b")


def test_settings_of_the_glm_130b_paper() -> None:
    config = read("THUDM/glm-130b")
    assert config.residual_scale == math.sqrt(2 * 70)
    assert config.blank_infilling == BlankInfilling(150000, 150001, 150004, 150005, long_share=0.7)
    dropouts = (config.embedding_dropout, config.hidden_dropout, config.attention_dropout)
    assert dropouts == (0.1, 0.1, 0.1)


@pytest.mark.parametrize("name", TINY)
def test_no_token_of_the_demo_marks_a_blank(name: str) -> None:
    demo = Path(__file__).parents[2] / "configs/llama/demo_model/config.json"
    blanks = read(name).blank_infilling
    assert blanks is not None
    marks = (blanks.mask_token_id, blanks.gmask_token_id)
    ends = (blanks.start_token_id, blanks.end_token_id)
    assert min(marks + ends) >= json.loads(demo.read_text(encoding="utf-8"))["vocab_size"]


def test_chatglm2_is_told_by_its_keys() -> None:
    written = chatglm2.write_config(read_chatglm2())
    assert written["model_type"] == "chatglm"
    assert chatglm.read_config(written, "") == read_chatglm2()


def read_chatglm2() -> ModelConfig:
    published = {"padded_vocab_size": 9, "ffn_hidden_size": 8, "num_layers": 1}
    sizes = {"hidden_size": 16, "num_attention_heads": 4, "multi_query_group_num": 2}
    return chatglm2.read_config({**published, **sizes}, "")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": "relu"}, "activation: 'relu': this program computes 'gelu' or 'geglu'"),
        ({"pre_seq_len": 128}, "pre_seq_len: 128: this is not supported"),
        ({"num_attention_heads": 32}, "heads of 2 are not whole pairs to rotate"),
        ({"gmask_token_id": None}, "gmask_token_id: is missing"),
        ({"eos_token_id": 518}, "eos_token_id: 518 is outside the vocabulary of 518"),
        ({"bos_token_id": "x"}, "bos_token_id: 'x' is not a token id"),
        ({"gpt_prob": 1.5}, "gpt_prob: 1.5 is above 1"),
    ],
)
def test_refused_with_the_reason(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(**changes)
    assert message in str(error.value)


def test_transformers_finds_the_published_classes() -> None:
    """With the Python files of the published model beside what is written."""
    classes = {
        "AutoConfig": "configuration_chatglm.ChatGLMConfig",
        "AutoModel": "modeling_chatglm.ChatGLMForConditionalGeneration",
        "AutoModelForSeq2SeqLM": "modeling_chatglm.ChatGLMForConditionalGeneration",
    }
    assert chatglm.write_config(read())["auto_map"] == classes
    assert chatglm2.write_config(read_chatglm2())["auto_map"] == classes
    assert "auto_map" not in chatglm.write_config(read("tiny/glm-130b"))


@pytest.mark.parametrize("name", SEEDS)
def test_written_config_is_read_as_the_same_model(name: str) -> None:
    config = read(name, fuse_attention_qkv=True, gpt_prob=0.25)
    assert chatglm.read_config(chatglm.write_config(config), name) == config


def test_query_key_and_value_stand_side_by_side_for_every_head() -> None:
    model = Decoder(read())
    initialize(model, seed=1)
    tensors = dict(whole_tensors(model))
    packed = dict(as_published(tensors.items(), model.config))
    found = packed["transformer.layers.2.attention.query_key_value.weight"].reshape(8, 3, 8, 64)
    for number, kind in enumerate(("query", "key", "value")):
        expected = tensors[f"layers.2.attention.{kind}.weight"].T.reshape(8, 8, 64)
        np.testing.assert_array_equal(found[:, number], expected)


@pytest.mark.parametrize("name", TINY)
def test_weights_are_read_as_they_were_written(tmp_path: Path, name: str) -> None:
    model = Decoder(read(name, fuse_attention_qkv=True, fuse_attention_ffn=True))
    initialize(model, seed=1)
    write_weights(whole_tensors(model), model.config, tmp_path)
    loaded = Decoder(read(name))
    load_weights(loaded, loaded.config, tmp_path)
    before, after = dict(whole_tensors(model)), dict(whole_tensors(loaded))
    assert before.keys() == after.keys()
    for canonical, values in before.items():
        np.testing.assert_array_equal(values, after[canonical])
