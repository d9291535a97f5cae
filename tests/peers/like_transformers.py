"""How this program's models are compared with those of transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from llm_pretrain.checkpoint.load import load_weights
from llm_pretrain.checkpoint.write_weights import write_weights
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.models.decoder import Decoder
from llm_pretrain.models.families import read_model_config
from tests.peers.comparison import Case, assert_close, outputs_of, run_peer, told, whole_tensors

_SCRIPT = Path(__file__).with_name("transformers_harness.py")


def run_transformers(python: Path, cases: Mapping[str, Case], directory: Path) -> None:
    """Fill a folder per case with what transformers makes of it (see transformers_harness.py)."""
    for name, case in cases.items():
        folder = directory / name
        with told(case):
            model, batch = case.build()
            write_weights(whole_tensors(model), model.config, folder / "saved")
        (folder / "published.json").write_text(json.dumps(case.published))
        np.save(folder / "tokens.npy", batch.tokens.numpy())
    run_peer(python, _SCRIPT, directory)


def assert_like_transformers(cases: Mapping[str, Case], name: str, directory: Path) -> None:
    """One of `cases` computes, and is read and written, as transformers does it.

    `directory` is what `run_transformers` has filled.
    """
    with told(cases[name]):
        _assert_same(cases[name], directory / name)


def _assert_same(case: Case, folder: Path) -> None:
    model, batch = case.build()
    theirs = dict(np.load(folder / "results.npz"))
    # Another name of the same activation is computed by another formula.
    saved = {"saved": theirs.pop("saved_logits")}
    assert_close(saved, {"saved": theirs["logits"]}, case.tolerance)
    assert_close(outputs_of(model, batch), theirs, case.tolerance)
    assert _kept(read_model_config(folder / "again")) == _kept(model.config)
    for saved, is_sharded in (("again", False), ("again-sharded", True)):
        assert (folder / saved / "model.safetensors.index.json").exists() == is_sharded
        loaded = Decoder(model.config)
        load_weights(loaded, model.config, folder / saved)
        for mine, their in zip(model.parameters(), loaded.parameters(), strict=True):
            np.testing.assert_array_equal(mine.numpy(), their.numpy())


def _kept(config: ModelConfig) -> ModelConfig:
    """Without what transformers does not keep, or fills in."""
    return replace(
        config,
        fuse_attention_qkv=False,
        fuse_attention_ffn=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
