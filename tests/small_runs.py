"""A small model, small data and a config for them, the same in every test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from llm_pretrain.data import IndexedWriter

VOCAB_SIZE = 128


def write_model(directory: Path, **changes: Any) -> Path:
    """A directory with the config.json of a LLaMA of about 170,000 parameters."""
    directory.mkdir(parents=True, exist_ok=True)
    config = {
        "model_type": "llama",
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "initializer_range": 0.05,
        **changes,
    }
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def write_data(directory: Path, documents: int = 300) -> Path:
    """Documents that count up in steps of 1 to 3: quickly learned, and no two alike."""
    generator = np.random.default_rng(0)
    with IndexedWriter(directory / "text", np.uint16) as writer:
        for _ in range(documents):
            length, start, stride = generator.integers([20, 0, 1], [120, VOCAB_SIZE, 4])
            writer.add_document((start + stride * np.arange(length)) % VOCAB_SIZE)
    return directory


def write_tokenizer(directory: Path, tokens: int = VOCAB_SIZE) -> Path:
    """A directory with a tokenizer of words that are numbers."""
    directory.mkdir(parents=True, exist_ok=True)
    vocabulary = {str(number): number for number in range(tokens)}
    model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "0"}
    (directory / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": model}))
    return directory


def small_config(model: Path, data: Path, output_dir: Path, **changes: Any) -> dict[str, Any]:
    """A config that trains on 16 samples of 32 tokens a step."""
    return {
        "model_name_or_path": str(model),
        "input_dir": str(data),
        "output_dir": str(output_dir),
        "split": "90,5,5",
        "max_seq_length": 32,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 8,
        "max_steps": 20,
        "learning_rate": 1e-3,
        "min_learning_rate": 1e-4,
        "warmup_steps": 2,
        "weight_decay": 0.01,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "do_train": True,
        **changes,
    }


def write_config(path: Path, config: dict[str, Any]) -> Path:
    path.write_text(json.dumps(config))
    return path
