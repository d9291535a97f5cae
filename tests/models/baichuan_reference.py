"""Baichuan 1 and 2 a second time: plain tensor algebra in float64, by their papers alone.

Nothing of the program is used. The block is LLaMA's (arXiv:2302.13971) with one matrix for query,
key and value; 13B has ALiBi (arXiv:2108.12409), 7B rotary embedding (arXiv:2104.09864); Baichuan 2
(arXiv:2309.10305) normalises the rows of its head.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import paddle
from paddle import Tensor
from paddle.nn import functional as F


def outputs(
    published: Mapping[str, Any], weights: Mapping[str, np.ndarray], tokens: np.ndarray
) -> dict[str, np.ndarray]:
    """Logits, loss of every next token, and "gradient/…" of every weight, all under its names."""
    tensors = {name: paddle.to_tensor(array.astype(np.float64)) for name, array in weights.items()}
    for tensor in tensors.values():
        tensor.stop_gradient = False
    logits = _logits(published, tensors, paddle.to_tensor(tokens))
    chances = F.log_softmax(logits[:, :-1], axis=-1)
    loss = -paddle.take_along_axis(chances, paddle.to_tensor(tokens[:, 1:, None]), axis=-1).mean()
    loss.backward()
    gradients = {f"gradient/{name}": tensor.grad.numpy() for name, tensor in tensors.items()}
    return {"logits": logits.numpy(), "loss": loss.numpy(), **gradients}


def _logits(published: Mapping[str, Any], weights: Mapping[str, Tensor], tokens: Tensor) -> Tensor:
    epsilon = published["rms_norm_eps"]
    x = weights["model.embed_tokens.weight"][tokens]
    for layer in range(published["num_hidden_layers"]):
        w = {
            name.removeprefix(f"model.layers.{layer}."): tensor
            for name, tensor in weights.items()
            if name.startswith(f"model.layers.{layer}.")
        }
        x = x + _attention(published, w, _norm(x, w["input_layernorm.weight"], epsilon))
        n = _norm(x, w["post_attention_layernorm.weight"], epsilon)
        gate, up = n @ w["mlp.gate_proj.weight"].T, n @ w["mlp.up_proj.weight"].T
        x = x + (gate * F.sigmoid(gate) * up) @ w["mlp.down_proj.weight"].T
    head = weights["lm_head.weight"]
    if "z_loss_weight" in published:
        head = head / (head * head).sum(axis=1, keepdim=True).sqrt()
    return _norm(x, weights["model.norm.weight"], epsilon) @ head.T


def _norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    return x / ((x * x).mean(axis=-1, keepdim=True) + epsilon).sqrt() * weight


def _attention(published: Mapping[str, Any], w: Mapping[str, Tensor], x: Tensor) -> Tensor:
    batch, length, hidden = x.shape
    heads = published["num_attention_heads"]
    size = hidden // heads
    packed = x @ w["self_attn.W_pack.weight"].T
    query, key, value = (
        packed[:, :, part * hidden : (part + 1) * hidden]
        .reshape([batch, length, heads, size])
        .transpose([0, 2, 1, 3])
        for part in range(3)
    )
    positions = np.arange(length)
    if "max_position_embeddings" in published:
        query, key = _rotated(query, positions), _rotated(key, positions)
    scores = query @ key.transpose([0, 1, 3, 2]) / math.sqrt(size)
    if "max_position_embeddings" not in published:
        # Softmax ignores what all keys of a query share, so the key's position is distance enough.
        scores = scores + paddle.to_tensor(np.multiply.outer(_slopes(heads), positions[None]))
    future = paddle.to_tensor(np.triu(np.full((length, length), -np.inf), 1))
    mixed = F.softmax(scores + future, axis=-1) @ value
    return mixed.transpose([0, 2, 1, 3]).reshape([batch, length, hidden]) @ (
        w["self_attn.o_proj.weight"].T
    )


def _rotated(x: Tensor, positions: np.ndarray) -> Tensor:
    half = x.shape[-1] // 2
    angles = positions[:, None] / 10000.0 ** (np.arange(half) / half)
    cos, sin = paddle.to_tensor(np.cos(angles)), paddle.to_tensor(np.sin(angles))
    a, b = x[..., :half], x[..., half:]
    return paddle.concat([a * cos - b * sin, b * cos + a * sin], axis=-1)


def _slopes(heads: int) -> list[float]:
    """As the authors of ALiBi compute them."""
    nearest = 2 ** int(math.log2(heads))
    first = 2.0 ** -(2.0 ** -(math.log2(nearest) - 3))
    slopes = [first ** (i + 1) for i in range(nearest)]
    if nearest == heads:
        return slopes
    return slopes + _slopes(2 * nearest)[0::2][: heads - nearest]
