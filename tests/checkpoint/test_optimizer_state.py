"""The optimizer's state, written in parts by one layout and read in parts by another."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from llm_pretrain.checkpoint.optimizer_state import (
    FOLDER,
    VALUES,
    SavedOptimizer,
    SavedPiece,
    SavedRange,
    write_shard,
)
from llm_pretrain.config import ConfigError

QUERY, KEY = (np.arange(48.0).reshape(4, 12) + offset for offset in (0, 100))
"""Two published tensors [4, 12]."""


def write_two_by_two(checkpoint: Path) -> None:
    """Query and key fused, split over 2 tensor ranks, each parameter over 2 sharding ranks."""
    for tensor_rank in (0, 1):
        columns = slice(6 * tensor_rank, 6 * tensor_rank + 6)
        parameter = np.concatenate([QUERY[:, columns], KEY[:, columns]], axis=1)
        block = ((0, 4), (columns.start, columns.stop))
        pieces = (
            SavedPiece("query", (4, 12), block, ((0, 4), (0, 6))),
            SavedPiece("key", (4, 12), block, ((0, 4), (6, 12))),
        )
        flat = parameter.reshape(-1).astype(np.float32)
        for sharding_rank, (begin, end) in enumerate([(0, 17), (17, 48)]):
            arrays = [
                (f"0/{value}", flat[begin:end] * factor) for factor, value in enumerate(VALUES, 1)
            ]
            entry = SavedRange("0", (4, 12), begin, end, pieces)
            write_shard(checkpoint, 2 * tensor_rank + sharding_rank, [entry], arrays, steps=7)


def test_any_block_can_be_read_whatever_the_writers_layout(tmp_path: Path) -> None:
    write_two_by_two(tmp_path)
    saved = SavedOptimizer(tmp_path)
    assert saved.steps == 7
    for rows, columns in [
        ((0, 4), (0, 12)),
        ((1, 3), (0, 12)),
        ((0, 4), (4, 8)),
        ((0, 4), (9, 12)),
    ]:
        block = (slice(*rows), slice(*columns))
        np.testing.assert_array_equal(saved.read("query", (4, 12), block, "master"), QUERY[block])
        np.testing.assert_array_equal(saved.read("key", (4, 12), block, "moment2"), 3 * KEY[block])


WHOLE = (slice(0, 4), slice(0, 12))


def test_a_missing_rank_is_noticed(tmp_path: Path) -> None:
    write_two_by_two(tmp_path)
    for path in (tmp_path / FOLDER).glob("rank-00002.*"):
        path.unlink()
    with pytest.raises(ConfigError, match="parts of query are missing"):
        SavedOptimizer(tmp_path).read("query", (4, 12), WHOLE, "master")


def test_both_ranks_of_a_tensor_part_missing_is_noticed(tmp_path: Path) -> None:
    write_two_by_two(tmp_path)
    for rank in (2, 3):
        for path in (tmp_path / FOLDER).glob(f"rank-{rank:05d}.*"):
            path.unlink()
    with pytest.raises(ConfigError, match="24 of the 48 values"):
        SavedOptimizer(tmp_path).read("query", (4, 12), WHOLE, "master")


def test_another_models_tensor_is_refused(tmp_path: Path) -> None:
    write_two_by_two(tmp_path)
    with pytest.raises(ConfigError, match="another model"):
        SavedOptimizer(tmp_path).read("query", (4, 6), (slice(0, 4), slice(0, 6)), "master")
    with pytest.raises(ConfigError, match="0 of the 48 values wanted of value"):
        SavedOptimizer(tmp_path).read("value", (4, 12), WHOLE, "master")


def test_damaged_files_are_named(tmp_path: Path) -> None:
    write_two_by_two(tmp_path)
    data = tmp_path / FOLDER / "rank-00001.safetensors"
    data.write_bytes(data.read_bytes()[:-50])
    with pytest.raises(ConfigError, match=r"rank-00001\.safetensors can't be read"):
        SavedOptimizer(tmp_path).read("query", (4, 12), WHOLE, "master")
    index = tmp_path / FOLDER / "rank-00000.json"
    index.write_text(json.dumps({"powers": {}, "ranges": [{"key": 1}]}))
    with pytest.raises(ConfigError, match=r"rank-00000\.json can't be read"):
        SavedOptimizer(tmp_path)


def test_no_state_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no optimizer state"):
        SavedOptimizer(tmp_path)
