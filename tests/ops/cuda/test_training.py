"""Training by the CUDA kernels has the loss curve of the references."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from llm_pretrain.config.model_config import BlankInfilling, ModelConfig
from llm_pretrain.config.training_arguments import TrainingArguments
from llm_pretrain.models.decoder import Decoder
from llm_pretrain.ops import dispatch
from llm_pretrain.ops.operator import set_compute_dtype
from llm_pretrain.parallel.comm import topology
from llm_pretrain.parallel.sharding.optimizer import LossScale, ShardedAdamW
from llm_pretrain.parallel.sharding.pieces import initialize
from tests.models.blank_batches import batch_with_blanks
from tests.models.small import small_config

STEPS = 6
ALWAYS = {
    "activation",
    "activation_backward",
    "adamw",
    "cross_entropy_add",
    "cross_entropy_backward",
    "cross_entropy_begin",
}
RMS, LAYER = ({name, f"{name}_backward"} for name in ("rms_norm", "layer_norm"))
ATTENTION = {"flash_attention", "flash_attention_backward"}
HEADS: dict[str, Any] = {
    "hidden_size": 128,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "num_hidden_layers": 1,
    "use_flash_attention": True,
    "blank_infilling": BlankInfilling(60, 61, 62, 63),
}
LLAMA = small_config(**HEADS)
ALIBI = small_config(
    **HEADS, family="bloom", rope=None, alibi=True, norm="layer_norm", activation="gelu_tanh",
    is_gated=False, tie_word_embeddings=True, attention_bias=True, mlp_bias=True,
)  # fmt: skip
MODELS = {"llama": (LLAMA, RMS | {"rotary"}), "alibi and a prefix": (ALIBI, LAYER)}


def losses(config: ModelConfig, dtype: str) -> Iterator[float]:
    """Of some steps on one batch, whose samples have a prefix that sees itself whole."""
    model = Decoder(config)
    initialize(model, seed=1)
    set_compute_dtype(dtype)
    training = TrainingArguments(output_dir="out", max_steps=STEPS, adam_epsilon=1e-3)
    optimizer = ShardedAdamW(
        model, training, topology.current(), tied_embedding=config.tie_word_embeddings
    )
    batch = batch_with_blanks(config, length=24, seed=1, samples=2)
    for _ in range(STEPS):
        optimizer.begin_step(1)
        loss = model(batch.tokens, batch.sequences, batch.labels).mean()
        loss.backward()
        optimizer.step(float(optimizer.reduce_gradients()), 2e-3, LossScale(1.0, is_dynamic=False))
        yield float(loss)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model", MODELS)
def test_the_loss_curve(cuda: ModuleType, model: str, dtype: str) -> None:
    config, called = MODELS[model]
    expected = list(losses(config, dtype))
    choices = dispatch.choose({}, dtype)
    assert "CUDA" in {choice.implementation for choice in choices}
    cuda.calls.clear()
    found = list(losses(config, dtype))
    assert set(cuda.calls) == ALWAYS | called | (ATTENTION if dtype == "bfloat16" else set())
    assert found[-1] < found[0] - 0.05
    np.testing.assert_allclose(found, expected, rtol=1e-5 if dtype == "float32" else 1e-2)
