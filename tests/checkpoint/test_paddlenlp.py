"""Files as PaddleNLP lays them out: fused tensors, a file for every rank, masters alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import paddle
import pytest
from safetensors.numpy import save_file

from llm_pretrain.checkpoint.load import load_weights
from llm_pretrain.checkpoint.published_weights import PublishedWeights, table_rows
from llm_pretrain.config import ConfigError
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.models.decoder import Decoder
from llm_pretrain.models.families.paddlenlp import source, write_config
from llm_pretrain.parallel.comm import topology
from llm_pretrain.parallel.sharding.pieces import named_pieces
from tests.checkpoint.models import random_tensors
from tests.models.small import small_config

CONFIG = small_config(num_attention_heads=8, num_key_value_heads=4, head_dim=2)


def as_paddlenlp(config: ModelConfig) -> dict[str, np.ndarray]:
    """The tensors of PaddleNLP's LLaMA without fusion, by the names that it gives them."""
    return {source(name, config).name: values for name, values in random_tensors(config).items()}


def fused(state: dict[str, np.ndarray], config: ModelConfig) -> dict[str, np.ndarray]:
    """What PaddleNLP makes of the tensors where `fuse_attention_qkv` and `_ffn` are set."""
    state = dict(state)
    groups = config.num_key_value_heads
    for index in range(config.num_hidden_layers):
        attention, mlp = (f"llama.layers.{index}.{part}" for part in ("self_attn", "mlp"))
        parts = [np.split(state.pop(f"{attention}.{x}_proj.weight"), groups, -1) for x in "qkv"]
        heads = [part for group in zip(*parts, strict=True) for part in group]
        state[f"{attention}.qkv_proj.weight"] = np.concatenate(heads, -1)
        gate_up = [state.pop(f"{mlp}.{name}_proj.weight") for name in ("gate", "up")]
        state[f"{mlp}.gate_up_fused_proj.weight"] = np.concatenate(gate_up, -1)
    return state


def rank_part(name: str, values: np.ndarray, rank: int, degree: int) -> np.ndarray:
    """What PaddleNLP gives a tensor-parallel rank of one of LLaMA's tensors."""
    if "norm" in name:
        return values
    if "gate_up_fused" in name:
        halves = np.split(values, 2, -1)
        return np.concatenate([np.split(half, degree, -1)[rank] for half in halves], -1)
    axis = 0 if any(row in name for row in ("embed_tokens", "o_proj", "down_proj")) else -1
    return np.split(values, degree, axis)[rank]


def write_parts(directory: Path, state: dict[str, np.ndarray], tensor: int, pipeline: int) -> None:
    """A file per rank, as PaddleNLP names them."""
    for rank in range(tensor):
        for stage in range(pipeline):
            part = {
                name: paddle.to_tensor(rank_part(name, values, rank, tensor))
                for number, (name, values) in enumerate(state.items())
                if number * pipeline // len(state) == stage
            }
            ranks = [f"tp{rank:02d}"] * (tensor > 1) + [f"pp{stage:02d}"] * (pipeline > 1)
            paddle.save(part, str(directory / f"model_state.{'_'.join(ranks)}.pdparams"))


def assert_read(directory: Path, config: ModelConfig = CONFIG) -> None:
    expected = random_tensors(config)
    for name, values in PublishedWeights(directory, config).whole_tensors():
        np.testing.assert_array_equal(values, expected.pop(name), err_msg=name)
    assert not expected


def refused(directory: Path, config: ModelConfig = CONFIG) -> str:
    with pytest.raises(ConfigError) as error:
        PublishedWeights(directory, config)
    return str(error.value)


@pytest.mark.parametrize("is_fused_here", [False, True])
@pytest.mark.parametrize("is_fused_there", [False, True])
def test_fused_tensors(tmp_path: Path, is_fused_there: bool, is_fused_here: bool) -> None:
    """Which form it is, the files say: PaddleNLP's config.json does not."""
    state = as_paddlenlp(CONFIG)
    state = fused(state, CONFIG) if is_fused_there else state
    paddle.save(
        {name: paddle.to_tensor(values) for name, values in state.items()},
        str(tmp_path / "model_state.pdparams"),
    )
    options = {"fuse_attention_qkv": is_fused_here, "fuse_attention_ffn": is_fused_here}
    assert_read(tmp_path, replace(CONFIG, **options))


@pytest.mark.parametrize("is_fused", [False, True])
@pytest.mark.parametrize(("tensor", "pipeline"), [(2, 1), (1, 2), (2, 2), (4, 3)])
def test_a_file_for_every_rank(tmp_path: Path, tensor: int, pipeline: int, is_fused: bool) -> None:
    state = as_paddlenlp(CONFIG)
    state = fused(state, CONFIG) if is_fused else state
    write_parts(tmp_path, state, tensor, pipeline)
    assert_read(tmp_path)


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_rank_of_another_degree_reads_its_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    """Three ranks of what two have written; three divide neither heads nor the vocabulary."""
    config = replace(CONFIG, num_attention_heads=12, num_key_value_heads=4)
    write_parts(tmp_path, as_paddlenlp(config), 2, 1)
    degrees = replace(topology.current().degrees, tensor=3)
    here = replace(topology.current(), degrees=degrees, tensor_rank=rank)
    monkeypatch.setattr(topology, "_current", here)
    part = Decoder(config)
    load_weights(part, config, tmp_path)
    whole = random_tensors(config)
    for parameter, piece in named_pieces(part):
        held = parameter.numpy()[piece.region(rank, 3)]
        np.testing.assert_array_equal(held, whole[piece.name][piece.block(rank, 3)])


def test_the_table_of_several_ranks_grows_as_one(tmp_path: Path) -> None:
    write_parts(tmp_path, as_paddlenlp(CONFIG), 2, 1)
    (tmp_path / "config.json").write_text(json.dumps(write_config(CONFIG)))
    grown = replace(CONFIG, vocab_size=CONFIG.vocab_size + 6)
    assert table_rows(tmp_path, grown) == CONFIG.vocab_size
    model = Decoder(grown)
    load_weights(model, grown, tmp_path, seed=1)
    found = {piece.name: parameter.numpy() for parameter, piece in named_pieces(model)}
    for name, values in random_tensors(CONFIG).items():
        known = found[name][tuple(map(slice, values.shape))]
        np.testing.assert_array_equal(known, values, err_msg=name)


def test_what_a_degree_does_not_divide_is_whole_on_every_rank(tmp_path: Path) -> None:
    config = replace(CONFIG, num_key_value_heads=2, vocab_size=65)
    state = as_paddlenlp(config)
    whole = ("k_proj", "v_proj", "embed_tokens", "lm_head", "norm")
    for rank in range(4):
        part = {
            name: values if any(x in name for x in whole) else rank_part(name, values, rank, 4)
            for name, values in state.items()
        }
        tensors = {name: paddle.to_tensor(values) for name, values in part.items()}
        paddle.save(tensors, str(tmp_path / f"model_state.tp{rank:02d}.pdparams"))
    assert_read(tmp_path, config)


def test_missing_files_of_ranks(tmp_path: Path) -> None:
    write_parts(tmp_path, as_paddlenlp(CONFIG), 2, 2)
    (tmp_path / "model_state.tp01_pp00.pdparams").unlink()
    message = refused(tmp_path)
    assert "tensor_parallel_degree 2 and pipeline_parallel_degree 2 some are missing" in message
    assert "model_state.tp01_pp01.pdparams are there" in message


def test_what_is_wrong_with_the_file_of_a_rank(tmp_path: Path) -> None:
    state = as_paddlenlp(CONFIG)
    for rank in range(2):
        part = {name: rank_part(name, values, rank, 2) for name, values in state.items()}
        if rank == 1:
            del part["llama.norm.weight"]
            part["lm_head.weight"] = part["lm_head.weight"][:, :-1]
        tensors = {name: paddle.to_tensor(values) for name, values in part.items()}
        paddle.save(tensors, str(tmp_path / f"model_state.tp0{rank}.pdparams"))
    message = refused(tmp_path)
    assert "weights of PaddleNLP don't fit" in message
    assert "missing: llama.norm.weight (tensor-parallel rank 1)" in message
    assert "lm_head.weight (tensor-parallel rank 1) is [16, 31] and should be [16, 32]" in message


def test_masters_alone(tmp_path: Path) -> None:
    """Unified checkpoints with skip_save_model_weight hold no other weights."""
    path = tmp_path / "master_weights.safetensors"
    save_file(as_paddlenlp(CONFIG), path, metadata={"format": "np"})
    assert_read(tmp_path)


def test_bfloat16_as_integers(tmp_path: Path) -> None:
    state = {
        name: (values.view(np.uint32) >> 16).astype(np.uint16)
        for name, values in as_paddlenlp(CONFIG).items()
    }
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "np"})
    weights = PublishedWeights(tmp_path, CONFIG)
    assert weights.dtype == "bfloat16"
    expected = random_tensors(CONFIG)["norm.weight"].view(np.uint32) & 0xFFFF0000
    read = weights.read("norm.weight", (slice(0, 16),))
    np.testing.assert_array_equal(read, expected.view(np.float32))


def test_tied_heads_and_frequencies_are_passed_over(tmp_path: Path) -> None:
    config = replace(CONFIG, tie_word_embeddings=True)
    state = as_paddlenlp(config)
    state["lm_head.weight"] = state["llama.embed_tokens.weight"]
    state["llama.layers.0.self_attn.rotary_emb.inv_freq"] = np.zeros(1, np.float32)
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "np"})
    assert_read(tmp_path, config)
