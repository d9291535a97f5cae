"""The smallest model of every family, with random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from llm_pretrain.checkpoint.weight_files import HUGGING_FACE, WeightFormat
from llm_pretrain.checkpoint.write_weights import write_weights
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.models.families import FAMILIES, SEEDS

TINY = [name for name in SEEDS if name.startswith("tiny/")]
WITHOUT_PADDLENLP = [
    "tiny/baichuan2-7b",  # a LLaMA there, whose head is not scaled
    "tiny/glm-130b",
    "tiny/qwen3",
]


def random_tensors(config: ModelConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Every tensor by canonical name, float32."""
    generator = np.random.default_rng(seed)
    return {
        name: generator.standard_normal(shape, dtype=np.float32)
        for name, shape in config.tensor_shapes().items()
    }


def write_random_model(
    name: str, directory: Path, dtype: str = "float32", weight_format: WeightFormat = HUGGING_FACE
) -> ModelConfig:
    """Write one of `TINY`."""
    published = SEEDS[name]
    config: ModelConfig = FAMILIES[published["model_type"]].read_config(published, name)
    write_weights(
        random_tensors(config).items(), config, directory, dtype=dtype, weight_format=weight_format
    )
    return config
