"""An evaluation's bits per byte, where the bytes are known beforehand, in several layouts."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from llm_pretrain.cli import main
from llm_pretrain.monitor.metrics_log import read_metrics
from tests.launching import RUN_PRETRAIN, run_job
from tests.small_runs import small_config, write_config, write_model

SMALLEST_VOCABULARY = 256 + 3
"""The bytes, and what `llm-pretrain tokenizer` has besides: no pair of bytes is merged."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data of which every token is a byte, without the ends of documents, and its tokenizer."""
    folder = tmp_path_factory.mktemp("bytes")
    lines = [
        json.dumps({"text": f"Line {n} of a text: {n * n}, ünd so weiter."}) for n in range(900)
    ]
    (folder / "text.jsonl").write_text("\n".join(lines))
    (folder / "data").mkdir()
    source = ["--input_path", str(folder / "text.jsonl")]
    learned = ["--vocab_size", str(SMALLEST_VOCABULARY), "--output_dir", str(folder / "bytes")]
    assert main(["tokenizer", *source, *learned]) == 0
    made = ["--model_name_or_path", str(folder / "bytes"), "--workers", "1"]
    assert (
        main(["preprocess", *source, *made, "--output_prefix", str(folder / "data" / "text")]) == 0
    )
    return folder


def evaluation(corpus: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    model = write_model(folder / "model", vocab_size=320)
    values = {
        "tokenizer_name_or_path": str(corpus / "bytes"),
        "max_steps": 1,
        "do_eval": True,
        "eval_iters": 2,
        "split": "80,20,0",
        **changes,
    }
    processes = values.pop("processes", 1)
    config = small_config(model, corpus / "data", folder / "run", **values)
    path = write_config(folder / "config.json", config)
    run_job(RUN_PRETRAIN, path, processes=processes, log_dir=folder / "log")
    return next(line for line in read_metrics(folder / "run") if line["kind"] == "evaluation")


@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"processes": 2, "tensor_parallel_degree": 2, "sequence_parallel": True},
        {"processes": 2, "pipeline_parallel_degree": 2},
        pytest.param({"processes": 2, "context_parallel_degree": 2}, marks=pytest.mark.slow),
        pytest.param({"processes": 2, "sharding": "stage2"}, marks=pytest.mark.slow),
    ],
    ids=["one", "tp2", "pp2", "cp2", "sd2"],
)
def test_a_token_that_is_a_byte(layout: dict[str, Any], corpus: Path, tmp_path: Path) -> None:
    found = evaluation(corpus, tmp_path, **layout)
    assert found["eval_bits_per_byte"] == pytest.approx(found["eval_loss"] / math.log(2), rel=1e-6)


def test_sets_have_their_own(corpus: Path, tmp_path: Path) -> None:
    prefix = str(corpus / "data" / "text")
    found = evaluation(corpus, tmp_path, split="1,0,0", eval_data={"one": prefix, "two": prefix})
    for name in ("one", "two"):
        loss = found[f"eval_{name}_loss"]
        assert found[f"eval_{name}_bits_per_byte"] == pytest.approx(loss / math.log(2), rel=1e-6)


def test_nothing_is_told_without_a_tokenizer(corpus: Path, tmp_path: Path) -> None:
    assert "eval_bits_per_byte" not in evaluation(corpus, tmp_path, tokenizer_name_or_path=None)
