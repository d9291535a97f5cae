"""Weights as safetensors in Hugging Face's format: written, read back, refused."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from llm_pretrain.checkpoint import safetensors_file
from llm_pretrain.checkpoint.load import load_weights
from llm_pretrain.checkpoint.published_weights import PublishedWeights
from llm_pretrain.checkpoint.safetensors_file import StoredTensor, read_safetensors, to_float32
from llm_pretrain.checkpoint.weight_files import HUGGING_FACE, PADDLENLP, WeightFormat
from llm_pretrain.checkpoint.write_weights import (
    finish_weights,
    write_weight_files,
    write_weights,
)
from llm_pretrain.config import ConfigError
from llm_pretrain.models.decoder import Decoder, DecoderBlock
from llm_pretrain.models.families import read_model_config
from llm_pretrain.parallel.comm import topology
from llm_pretrain.parallel.sharding.pieces import named_pieces
from tests.checkpoint.models import TINY, WITHOUT_PADDLENLP, random_tensors, write_random_model
from tests.models.small import small_config, small_model


def whole_tensors(model: Decoder) -> Iterator[tuple[str, np.ndarray]]:
    for parameter, piece in named_pieces(model):
        yield piece.name, parameter.numpy()[piece.region(0, 1)]


def saved(tmp_path: Path, seed: int = 1, **options: Any) -> tuple[Decoder, Path]:
    changes = options.pop("changes", {})
    model = small_model(seed, **changes)
    write_weights(whole_tensors(model), model.config, tmp_path, **options)
    return model, tmp_path


def assert_same(ours: Decoder, theirs: Decoder) -> None:
    expected = dict(whole_tensors(ours))
    for name, values in whole_tensors(theirs):
        np.testing.assert_array_equal(values, expected.pop(name), err_msg=name)
    assert not expected


def refused(directory: Path, **changes: Any) -> str:
    config = small_config(**changes)
    with pytest.raises(ConfigError) as error:
        load_weights(Decoder(config), config, directory)
    return str(error.value)


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the header of a safetensors file; the values stay."""
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    change(header)
    changed = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(changed)) + changed + content[8 + length :])


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="plain"),
        pytest.param({"fuse_attention_qkv": True, "fuse_attention_ffn": True}, id="fused"),
        pytest.param({"tie_word_embeddings": True}, id="tied"),
        pytest.param(
            {"attention_bias": True, "attention_output_bias": True, "mlp_bias": True}, id="biases"
        ),
    ],
)
@pytest.mark.parametrize("max_shard_bytes", [10**9, 3000])
def test_read_back_bit_for_bit(
    tmp_path: Path, changes: dict[str, Any], max_shard_bytes: int
) -> None:
    model, directory = saved(tmp_path, changes=changes, max_shard_bytes=max_shard_bytes)
    assert (directory / "model.safetensors").exists() == (max_shard_bytes > 10**6)
    config = read_model_config(directory)
    assert config == model.config
    loaded = Decoder(config)
    load_weights(loaded, config, directory)
    assert_same(loaded, model)


def test_fused_and_split_weights_are_the_same_files(tmp_path: Path) -> None:
    model, directory = saved(tmp_path, changes={"fuse_attention_qkv": True})
    split = Decoder(replace(model.config, fuse_attention_qkv=False))
    load_weights(split, split.config, directory)
    assert_same(split, model)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_lower_precision_files(tmp_path: Path, dtype: str) -> None:
    model, directory = saved(tmp_path, dtype=dtype)
    loaded = Decoder(model.config)
    load_weights(loaded, model.config, directory)
    for ours, theirs in zip(model.parameters(), loaded.parameters(), strict=True):
        rounded = ours.astype(dtype).astype("float32").numpy()
        np.testing.assert_array_equal(theirs.numpy(), rounded)
    assert json.loads((directory / "config.json").read_text())["torch_dtype"] == dtype


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_lower_precision_parameters_survive_as_they_are(tmp_path: Path, dtype: str) -> None:
    paddle.set_default_dtype(dtype)
    try:
        model, directory = saved(tmp_path, dtype=dtype)
        loaded = Decoder(model.config)
    finally:
        paddle.set_default_dtype("float32")
    load_weights(loaded, model.config, directory)
    assert_same(loaded, model)


def test_rounding_to_bfloat16_is_that_of_paddle(tmp_path: Path) -> None:
    values = np.array([1.00390625, 1.01171875, -3.3e38, np.inf, np.nan, 1e-40, 0.0], np.float32)
    config = small_config(vocab_size=7, hidden_size=1)
    write_weight_files([("embedding.weight", values[:, None])], config, tmp_path, dtype="bfloat16")
    tensors = read_safetensors(tmp_path / "model-00001.safetensors").tensors
    read = to_float32(tensors["model.embed_tokens.weight"].read((slice(None), 0)))
    expected = paddle.to_tensor(values).astype("bfloat16").astype("float32").numpy()
    np.testing.assert_array_equal(read, expected)


def test_the_safetensors_library_reads_what_is_written(tmp_path: Path) -> None:
    model, directory = saved(tmp_path)
    with safe_open(directory / "model.safetensors", framework="np") as file:
        assert file.metadata() == {"format": "pt"}
        table = file.get_tensor("model.embed_tokens.weight")
        query = file.get_tensor("model.layers.1.self_attn.q_proj.weight")
    tensors = dict(whole_tensors(model))
    np.testing.assert_array_equal(table, tensors["embedding.weight"])
    np.testing.assert_array_equal(query, tensors["layers.1.attention.query.weight"].T)


def test_a_part_of_a_model_reads_its_own_tensors(tmp_path: Path) -> None:
    """As the stage of a pipeline does."""
    model, directory = saved(tmp_path, max_shard_bytes=3000)
    block = DecoderBlock(model.config, index=1)
    load_weights(block, model.config, directory)
    tensors = dict(whole_tensors(model))
    for parameter, piece in named_pieces(block):
        np.testing.assert_array_equal(parameter.numpy(), tensors[piece.name])


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_tensor_parallel_rank_reads_its_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int, fused: bool
) -> None:
    model, directory = saved(tmp_path)
    config = replace(model.config, fuse_attention_qkv=fused, fuse_attention_ffn=fused)
    whole = dict(whole_tensors(model))
    degrees = replace(topology.current().degrees, tensor=2)
    ranked = replace(topology.current(), degrees=degrees, tensor_rank=rank)
    monkeypatch.setattr(topology, "_current", ranked)
    part = Decoder(config)
    sizes_read, read = [], StoredTensor.read

    def watched(tensor: StoredTensor, block: Any) -> np.ndarray:
        values = read(tensor, block)
        sizes_read.append(values.size)
        return values

    monkeypatch.setattr(StoredTensor, "read", watched)
    load_weights(part, config, directory)
    sizes_held = []
    for parameter, piece in named_pieces(part):
        held = parameter.numpy()[piece.region(rank, 2)]
        sizes_held.append(held.size)
        np.testing.assert_array_equal(held, whole.pop(piece.name)[piece.block(rank, 2)])
    assert not whole
    assert sum(sizes_read) == sum(sizes_held)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("degree", [1, 2, 4])
def test_rows_that_the_files_lack_begin_as_random_ones_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, degree: int, tied: bool
) -> None:
    """64 of 98 rows are there: of four ranks one has rows of both kinds, and one new ones alone."""
    model, directory = saved(tmp_path, changes={"tie_word_embeddings": tied})
    config = replace(model.config, vocab_size=98)
    expected = dict(whole_tensors(small_model(5, vocab_size=98, tie_word_embeddings=tied)))
    for name, values in whole_tensors(model):
        expected[name][tuple(map(slice, values.shape))] = values
    for rank in range(degree):
        degrees = replace(topology.current().degrees, tensor=degree)
        ranked = replace(topology.current(), degrees=degrees, tensor_rank=rank)
        monkeypatch.setattr(topology, "_current", ranked)
        part = Decoder(config)
        load_weights(part, config, directory, seed=5)
        for parameter, piece in named_pieces(part):
            held = parameter.numpy()
            region = piece.region(rank, degree)
            wanted = expected[piece.name][piece.block(rank, degree)]
            np.testing.assert_array_equal(held[region], wanted, err_msg=piece.name)
            if piece.name == "embedding.weight":
                assert not held[region[0].stop :].any(), "padding"


def test_rows_are_added_only_where_they_are_asked_for(tmp_path: Path) -> None:
    _, directory = saved(tmp_path)
    assert "the table has 64 rows where vocab_size is 100" in refused(directory, vocab_size=100)
    config = small_config(vocab_size=60)
    with pytest.raises(ConfigError, match="64 rows where vocab_size is 60"):
        load_weights(Decoder(config), config, directory, seed=5)


def test_stages_write_files_of_their_own(tmp_path: Path) -> None:
    model = small_model(1)
    tensors = list(whole_tensors(model))
    written = {}
    for stage, part in enumerate((tensors[:5], tensors[5:])):
        label = f"stage-{stage}"
        written.update(write_weight_files(part, model.config, tmp_path, label=label))
    finish_weights(written, model.config, tmp_path)
    loaded = Decoder(model.config)
    load_weights(loaded, model.config, tmp_path)
    assert_same(loaded, model)


def test_nothing_of_an_earlier_save_is_left(tmp_path: Path) -> None:
    saved(tmp_path, seed=1, max_shard_bytes=1000)
    model, directory = saved(tmp_path, seed=2, max_shard_bytes=10**9)
    files = sorted(path.name for path in directory.iterdir())
    assert files == ["config.json", "model.safetensors"]
    saved(tmp_path, seed=3, max_shard_bytes=6000)
    assert not (directory / "model.safetensors").exists()
    loaded = Decoder(model.config)
    load_weights(loaded, model.config, directory)
    assert_same(loaded, small_model(3))


def test_a_save_that_fails_leaves_no_file_with_a_name(tmp_path: Path) -> None:
    def failing() -> Iterator[tuple[str, np.ndarray]]:
        yield "embedding.weight", np.zeros((64, 16), np.float32)
        raise RuntimeError("disk is gone")

    with pytest.raises(RuntimeError):
        write_weights(failing(), small_config(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_missing_extra_and_misshapen_tensors_in_one_error(tmp_path: Path) -> None:
    _, directory = saved(tmp_path)

    def change(header: dict[str, Any]) -> None:
        header["model.strange.weight"] = header.pop("model.norm.weight")
        header["model.layers.0.self_attn.q_proj.weight"]["shape"] = [8, 32]

    rewrite(directory / "model.safetensors", change)
    message = refused(directory)
    assert "missing: model.norm.weight" in message
    assert "not the model's: model.strange.weight" in message
    assert "q_proj.weight is [8, 32] and should be [16, 16]" in message


def test_tolerated_extras(tmp_path: Path) -> None:
    model, directory = saved(tmp_path, changes={"tie_word_embeddings": True})

    def change(header: dict[str, Any]) -> None:
        header["lm_head.weight"] = header["model.embed_tokens.weight"]
        header["model.layers.0.self_attn.rotary_emb.inv_freq"] = header["model.norm.weight"]

    rewrite(directory / "model.safetensors", change)
    loaded = Decoder(model.config)
    load_weights(loaded, model.config, directory)
    assert_same(loaded, model)


@pytest.mark.parametrize("name", ["tiny/gpt2", "tiny/bloom", "tiny/opt", "tiny/llama"])
def test_a_model_that_was_published_without_its_head(tmp_path: Path, name: str) -> None:
    """Its names lack the prefix that a model with a head gives them."""
    config = write_random_model(name, tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    prefix = next(iter(tensors)).partition(".")[0] + "."
    save_file({name.removeprefix(prefix): tensor for name, tensor in tensors.items()}, path)
    expected = random_tensors(config)
    for canonical, values in PublishedWeights(tmp_path, config).whole_tensors():
        np.testing.assert_array_equal(values, expected[canonical])


def test_a_table_smaller_than_the_vocabulary(tmp_path: Path) -> None:
    _, directory = saved(tmp_path)
    message = refused(directory, vocab_size=128)
    assert "the table has 64 rows where vocab_size is 128" in message


def test_a_model_of_another_depth(tmp_path: Path) -> None:
    _, directory = saved(tmp_path)
    assert "missing: model.layers.2." in refused(directory, num_hidden_layers=3)
    assert "not the model's: model.layers.1." in refused(directory, num_hidden_layers=1)


@pytest.mark.parametrize(
    ("name", "weight_format"),
    [(name, HUGGING_FACE) for name in TINY]
    + [(name, PADDLENLP) for name in TINY if name not in WITHOUT_PADDLENLP],
)
def test_a_run_may_take_the_first_layers(
    tmp_path: Path, name: str, weight_format: WeightFormat
) -> None:
    config = write_random_model(name, tmp_path, weight_format=weight_format)
    first = replace(config, num_hidden_layers=2)
    expected = random_tensors(config)
    weights = PublishedWeights(tmp_path, first, may_be_deeper=True)
    for canonical, values in weights.whole_tensors():
        np.testing.assert_array_equal(values, expected[canonical], err_msg=canonical)


def test_further_layers_hold_nothing_else(tmp_path: Path) -> None:
    _, directory = saved(tmp_path)

    def change(header: dict[str, Any]) -> None:
        header["model.layers.1.strange.weight"] = header.pop("model.layers.0.mlp.up_proj.weight")

    rewrite(directory / "model.safetensors", change)
    with pytest.raises(ConfigError) as error:
        PublishedWeights(directory, small_config(num_hidden_layers=1), may_be_deeper=True)
    assert "missing: model.layers.0.mlp.up_proj.weight" in str(error.value)
    assert "not the model's: model.layers.1.strange.weight" in str(error.value)


def test_no_weights(tmp_path: Path) -> None:
    assert "holds none of model.safetensors, pytorch_model.bin" in refused(tmp_path)
    (tmp_path / "consolidated.00.pth").touch()
    assert "only consolidated.00.pth" in refused(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cut off"),
        (b"\x00" * 8, "cut off"),
        (b"\xff" * 100, "cut off"),
        (struct.pack("<Q", 4) + b"[1]]", "can't be understood"),
        (struct.pack("<Q", 2) + b"[]", "can't be understood"),
        (struct.pack("<Q", 10) + b'{"a": 1}  ', "can't be understood"),
    ],
)
def test_files_that_are_not_safetensors(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    assert message in refused(tmp_path)


def test_cut_file(tmp_path: Path) -> None:
    path = saved(tmp_path)[1] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    assert "it ends before the values of" in refused(tmp_path)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"dtype": "F32", "shape": [1], "data_offsets": [0, 8]}, "does not fit its shape"),
        ({"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}, "can't be understood"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [0]}, "can't be understood"),
        ({"dtype": "I8", "shape": [16], "data_offsets": [0, 16]}, "has the type I8"),
    ],
)
def test_broken_entries(tmp_path: Path, entry: dict[str, Any], message: str) -> None:
    path = saved(tmp_path)[1] / "model.safetensors"
    rewrite(path, lambda header: header.update({"model.norm.weight": entry}))
    assert message in refused(tmp_path)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "can't be read as an index"),
        ('{"weight_map": 3}', "can't be read as an index"),
        ('{"weight_map": {"a": "model-9.safetensors"}}', "not there: model-9.safetensors"),
        ('{"weight_map": {"a": "../secret"}}', "files of the same directory"),
        ('{"weight_map": {"a": "model-00001.safetensors"}}', "not in the files it says: a"),
    ],
)
def test_broken_index(tmp_path: Path, index: str, message: str) -> None:
    saved(tmp_path, max_shard_bytes=3000)
    (tmp_path / "model.safetensors.index.json").write_text(index)
    assert message in refused(tmp_path)


def test_a_disk_that_gives_back_other_bytes_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.safetensors"

    def flush_and_flip_a_bit(written: Path) -> None:
        content = bytearray(written.read_bytes())
        content[-3] ^= 16
        written.write_bytes(content)

    monkeypatch.setattr(safetensors_file, "flush_file", flush_and_flip_a_bit)
    with (
        pytest.raises(OSError, match="read back is not what was written"),
        safetensors_file.writing_safetensors(path) as writer,
    ):
        writer.add("values", np.arange(1000, dtype=np.float32), "float32")
    assert not list(tmp_path.iterdir())
