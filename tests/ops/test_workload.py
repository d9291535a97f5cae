"""The shapes that a run gives a process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm_pretrain.config import Degrees, load_run_config
from llm_pretrain.models.families import load_model_config
from llm_pretrain.ops.workload import Workload
from tests.small_runs import VOCAB_SIZE, small_config, write_config, write_model

ALONE = Degrees(1, 1, 1, 1, 1, 1, 1)


def workload(folder: Path, degrees: Degrees = ALONE, **keys: Any) -> Workload:
    config = small_config(write_model(folder / "model"), folder, folder / "out", **keys)
    run = load_run_config(write_config(folder / "run.json", config))
    model = load_model_config(run.model.model_name_or_path, run.model, max_seq_length=32)
    return Workload.of(run, model, degrees)


def test_one_process_has_all(tmp_path: Path) -> None:
    found = workload(tmp_path, bf16=True)
    assert (found.compute_dtype, found.weight_dtype) == ("bfloat16", "float32")
    assert (found.rows, found.samples, found.attended) == (64, 2, 32)
    assert (found.heads, found.key_heads, found.head_size, found.turned) == (8, 4, 8, 8)
    assert (found.hidden, found.intermediate, found.vocabulary) == (64, 128, VOCAB_SIZE)
    assert found.mask().is_plain


def test_processes_share_heads_columns_positions_and_parameters(tmp_path: Path) -> None:
    degrees = Degrees(
        data=1, sharding=2, tensor=2, pipeline=2, sep=2, context=1, virtual_pipeline=1
    )
    whole, found = workload(tmp_path), workload(tmp_path, degrees)
    assert (found.heads, found.key_heads, found.intermediate) == (2, 1, 64)
    assert (found.positions, found.attended, found.vocabulary) == (16, 32, VOCAB_SIZE // 2)
    assert found.parameters == pytest.approx(whole.parameters / 8, abs=1)
    ring = Degrees(1, 1, 1, 1, 1, 2, 1)
    assert workload(tmp_path, ring).attended == 16


def test_documents_are_in_the_mask(tmp_path: Path) -> None:
    mask = workload(tmp_path, reset_attention_mask=True).mask()
    assert mask.document_starts is not None
    assert mask.document_starts.shape == (2, 32)
    assert (np.diff(mask.document_starts) >= 0).all()
