"""Texts on the way: in every layout those of the checkpoint's model on one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llm_pretrain.checkpoint.find_model import load_model
from llm_pretrain.cli import main
from llm_pretrain.config import ConfigError, load_run_config
from llm_pretrain.data.preprocess import load_tokenizer
from llm_pretrain.data.preprocess.tokenizers import Tokenizer
from llm_pretrain.models.generate import generate
from llm_pretrain.training import trainer
from llm_pretrain.training.reports import in_a_line
from llm_pretrain.training.text_samples import TOKENS
from tests.launching import RUN_PRETRAIN, logged, run_job
from tests.small_runs import small_config, write_config, write_data, write_model, write_tokenizer

LAYOUTS: dict[str, dict[str, Any]] = {
    "one process": {},
    "tensor": {"tensor_parallel_degree": 2, "sequence_parallel": True},
    "pipeline": {"pipeline_parallel_degree": 2},
    "sep": {"sep_parallel_degree": 2},
    "context": {"context_parallel_degree": 2},
    "sharding": {"sharding": "stage3", "gradient_accumulation_steps": 4},
}
PROMPTS = ("7 8 9", "100 102")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared")
    write_model(folder / "model")
    write_data(folder / "data")
    write_tokenizer(folder / "tokenizer")
    return folder


QUICK = {"one process", "tensor", "pipeline"}


@pytest.mark.parametrize(
    "layout",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in LAYOUTS],
)
def test_the_texts_are_those_of_the_checkpoint(layout: str, shared: Path, tmp_path: Path) -> None:
    config = small_config(
        shared / "model",
        shared / "data",
        tmp_path / "out",
        tokenizer_name_or_path=str(shared / "tokenizer"),
        max_seq_length=48,
        learning_rate=1e-2,
        max_steps=4,
        save_strategy="steps",
        save_steps=2,
        sample_prompts=list(PROMPTS),
        sample_steps=2,
        **LAYOUTS[layout],
    )
    processes = 1 if layout == "one process" else 2
    file = write_config(tmp_path / "run.json", config)
    run_job(RUN_PRETRAIN, file, processes=processes, log_dir=tmp_path / "log")
    lines = logged(tmp_path / "out", "sample")
    told = [(line["global_step"], line["prompt"]) for line in lines]
    assert told == [(step, prompt) for step in (2, 4) for prompt in PROMPTS]
    tokenizer = load_tokenizer(shared / "tokenizer")
    for line in lines:
        model = load_model(tmp_path / "out" / f"checkpoint-{line['global_step']}")
        found = generate(model, tokenizer.encode(line["prompt"]), TOKENS)
        assert line["text"] == tokenizer.decode(found)


def test_texts_and_evaluations_share_a_tokenizer(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def reading(directory: Path) -> Tokenizer:
        read.append(directory)
        return load_tokenizer(directory)

    monkeypatch.setattr(trainer, "load_tokenizer", reading)
    config = small_config(
        shared / "model",
        shared / "data",
        tmp_path / "out",
        tokenizer_name_or_path=str(shared / "tokenizer"),
        max_steps=1,
        do_eval=True,
        eval_iters=1,
        sample_prompts=["7"],
        sample_steps=1,
    )
    assert main(["train", str(write_config(tmp_path / "run.json", config))]) == 0
    assert len(logged(tmp_path / "out", "evaluation")) == 1
    assert len(logged(tmp_path / "out", "sample")) == 1
    assert read == [shared / "tokenizer"]


def test_a_text_is_one_line_and_leaves_the_terminal_as_it_was() -> None:
    assert in_a_line("Step 5: a|b\n\n\x1b[2Jc\u3000日本") == "Step 5: a|b\\n\\n\\x1b[2Jc\u3000日本"


def test_samples_need_a_number_of_steps(shared: Path, tmp_path: Path) -> None:
    config = small_config(shared, shared, tmp_path, sample_prompts=["7"])
    with pytest.raises(ConfigError, match="samples of text need sample_steps"):
        load_run_config(write_config(tmp_path / "run.json", config), [])
