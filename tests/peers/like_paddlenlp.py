"""How this program's models are compared with those of PaddleNLP."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import paddle

from llm_pretrain.checkpoint.weight_files import HUGGING_FACE
from llm_pretrain.checkpoint.write_weights import write_weights
from tests.peers.comparison import Case, assert_close, outputs_of, run_peer, told, whole_tensors

_SCRIPT = Path(__file__).with_name("paddlenlp_harness.py")
_STRUCTURE = ("prefix_ends", "position_ids", "block_position_ids")


def run_paddlenlp(python: Path, cases: Mapping[str, Case], directory: Path) -> None:
    """Fill a folder per case with what PaddleNLP makes of it (see paddlenlp_harness.py)."""
    for name, case in cases.items():
        folder = directory / name
        with told(case):
            model, batch = case.build()
            write_weights(
                whole_tensors(model), model.config, folder / "saved", weight_format=case.format
            )
        if case.format == HUGGING_FACE:
            (folder / "published.json").write_text(json.dumps(case.published))
        structure = {key: getattr(batch.sequences, key) for key in _STRUCTURE}
        np.savez(
            folder / "inputs.npz",
            tokens=batch.tokens.numpy(),
            labels=batch.labels.numpy(),
            **{key: values for key, values in structure.items() if values is not None},
        )
    run_peer(python, _SCRIPT, directory)


def assert_like_paddlenlp(cases: Mapping[str, Case], name: str, directory: Path) -> None:
    """One of `cases` computes as PaddleNLP does, while training and while evaluating.

    `directory` is what `run_paddlenlp` has filled.
    """
    case = cases[name]
    with told(case):
        theirs = dict(np.load(directory / name / "results.npz"))
        evaluated = theirs.pop("evaluation_logits")
        model, batch = case.build()
        model.train()
        assert_close(outputs_of(model, batch, case.format), theirs, case.tolerance)
        model.eval()
        with paddle.no_grad():
            logits = model(batch.tokens, batch.sequences).numpy()
        assert_close({"logits": logits}, {"logits": evaluated}, case.tolerance)
