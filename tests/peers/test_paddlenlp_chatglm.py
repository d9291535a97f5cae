"""This program's ChatGLM and ChatGLM2 against those of PaddleNLP, from the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm_pretrain.checkpoint.layout import PADDLENLP
from llm_pretrain.checkpoint.write_weights import as_published, write_weights
from llm_pretrain.models.decoder import Decoder
from llm_pretrain.parallel.micro_batch import MicroBatch, split_batch
from llm_pretrain.parallel.vocabulary_loss import IGNORED_LABEL
from tests.models.blank_batches import batch_with_blanks
from tests.peers.comparison import (
    Case,
    assert_close,
    built,
    outputs_of_batch,
    run_peer,
    whole_tensors,
)

pytestmark = pytest.mark.peer_paddlenlp

SCRIPT = Path(__file__).with_name("paddlenlp_own_layout.py")
FUSED = {"fuse_attention_qkv": True, "fuse_attention_ffn": True}


def chatglm(**changes: Any) -> dict[str, Any]:
    return {
        "model_type": "chatglm",
        "vocab_size": 99,
        "hidden_size": 48,
        "inner_hidden_size": 52,
        "num_layers": 3,
        "num_attention_heads": 3,
        "max_sequence_length": 200,
        "mask_token_id": 95,
        "gmask_token_id": 96,
        "bos_token_id": 97,
        "eos_token_id": 98,
        **changes,
    }


def chatglm2(**changes: Any) -> dict[str, Any]:
    return {
        "model_type": "chatglm_v2",
        "padded_vocab_size": 99,
        "hidden_size": 48,
        "ffn_hidden_size": 52,
        "num_layers": 3,
        "num_attention_heads": 6,
        "kv_channels": 8,
        "multi_query_group_num": 2,
        "seq_length": 200,
        "add_qkv_bias": True,
        **changes,
    }


CASES = {
    "chatglm-long-blanks": Case(chatglm(), length=37),
    "chatglm-short-blanks": Case(chatglm(gpt_prob=0.0), length=33),
    "chatglm-several-blocks": Case(chatglm(num_layers=2, gpt_prob=0.5), FUSED, length=161),
    "chatglm-other-sizes": Case(
        chatglm(hidden_size=32, num_attention_heads=8, num_layers=4, layernorm_epsilon=1e-3),
        length=16,
    ),
    "chatglm2": Case(chatglm2(), length=25),
    "chatglm2-one-group": Case(chatglm2(multi_query_group_num=1), FUSED, length=161),
    "chatglm2-biases": Case(
        chatglm2(add_bias_linear=True, num_attention_heads=3, kv_channels=16,
                 multi_query_group_num=3), length=31,
    ),
    "chatglm2-no-bias": Case(chatglm2(add_qkv_bias=False, layernorm_epsilon=1e-3), length=31),
}  # fmt: skip


def batch_of(model: Decoder, tokens: np.ndarray) -> MicroBatch:
    if model.config.blank_infilling is not None:
        return batch_with_blanks(model.config, tokens.shape[1], seed=int(tokens.sum()))
    labels = np.concatenate([tokens[:, 1:], np.full((len(tokens), 1), IGNORED_LABEL)], axis=1)
    (batch,) = split_batch(tokens, labels, len(tokens), ignored_label=IGNORED_LABEL)
    return batch


@pytest.fixture(scope="module")
def directory(paddlenlp_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("cases")
    for name in CASES:
        model, tokens = built(CASES, name)
        batch = batch_of(model, tokens)
        saved = directory / name / "saved"
        write_weights(whole_tensors(model), model.config, saved, layout=PADDLENLP)
        fields = ("prefix_ends", "position_ids", "block_position_ids")
        structure = {field: getattr(batch.sequences, field) for field in fields}
        np.savez(
            directory / name / "inputs.npz",
            tokens=batch.tokens.numpy(),
            labels=batch.labels.numpy(),
            **{field: values for field, values in structure.items() if values is not None},
        )
    run_peer(paddlenlp_python, SCRIPT, directory)
    return directory


@pytest.mark.parametrize("name", CASES)
def test_logits_loss_and_every_gradient(name: str, directory: Path) -> None:
    model, tokens = built(CASES, name)
    logits, loss, gradients = outputs_of_batch(model, batch_of(model, tokens))
    ours = {"logits": logits, "loss": loss}
    for published, gradient in as_published(gradients, model.config, PADDLENLP):
        ours[f"gradient/{published}"] = gradient
    assert_close(ours, dict(np.load(directory / name / "results.npz")))
