"""Runs in PaddleNLP's environment: its models from what this program wrote in its layout.

Usage: paddlenlp_own_layout.py DIRECTORY

Every folder of DIRECTORY is a case: `saved/` (a model in PaddleNLP's layout) and `inputs.npz`
(tokens and labels [B, S]; for ChatGLM also position_ids, block_position_ids and prefix_ends).
Written to it: `results.npz` with logits, loss and every gradient under "gradient/<name>".
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import paddle
from paddle.nn.functional import cross_entropy
from paddlenlp.transformers import AutoModelForCausalLM


def run_case(case: Path) -> None:
    inputs = dict(np.load(case / "inputs.npz"))
    model = AutoModelForCausalLM.from_pretrained(str(case / "saved"), dtype="float32")
    model.train()
    output = model(input_ids=paddle.to_tensor(inputs["tokens"]), **structure(inputs))
    logits = output[0] if isinstance(output, tuple) else output
    labels = paddle.to_tensor(inputs["labels"])
    # Paddle's own mean counts the labels that it ignores.
    loss = cross_entropy(logits[labels != -100], labels[labels != -100])
    loss.backward()
    gradients = {f"gradient/{name}": p.grad.numpy() for name, p in model.named_parameters()}
    np.savez(case / "results.npz", logits=logits.numpy(), loss=loss.numpy(), **gradients)


def structure(inputs: dict[str, np.ndarray]) -> dict[str, paddle.Tensor]:
    if "prefix_ends" not in inputs:
        return {}
    place = np.arange(inputs["tokens"].shape[1])
    in_context = place[None, None, :] < inputs["prefix_ends"][:, :, None]
    visible = (place[None, :] <= place[:, None])[None] | in_context
    positions = np.stack([inputs["position_ids"], inputs["block_position_ids"]], axis=1)
    return {
        "position_ids": paddle.to_tensor(positions),
        "attention_mask": paddle.to_tensor(visible[:, None]),
    }


if __name__ == "__main__":
    paddle.set_device("cpu")
    for case in sorted(Path(sys.argv[1]).iterdir()):
        run_case(case)
