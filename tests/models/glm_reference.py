"""GLM-130B as its paper writes it (Zeng et al., arXiv:2210.02414), to compare with.

In float64, sample by sample and head by head; weights under the names of the published checkpoint.
Section 2.2: Post-LN with DeepNorm, LayerNorm(α x + Network(x)) and α = √(2 N) for N layers; rotary
positions; FFN_GeGLU(x) = (GELU(x W₁) ⊗ x V) W₂, of which the checkpoint packs V before W₁.
Section 2.2, "embedding layer gradient shrink": x α + detach(x) (1 - α).
"""

from __future__ import annotations

import math

import numpy as np
import paddle
from paddle import Tensor
from paddle.nn.functional import cross_entropy, gelu, softmax

Weights = dict[str, Tensor]


def logits_of(
    weights: Weights,
    tokens: np.ndarray,
    positions: np.ndarray,
    prefix: int,
    *,
    layers: int,
    heads: int,
    epsilon: float,
    gradient_share: float,
) -> Tensor:
    """Logits [S, V] of one sample, tokens and positions [S], whose context has `prefix` tokens."""

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def layer_norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        deviation = paddle.sqrt((centred**2).mean(-1, keepdim=True) + epsilon)
        return centred / deviation * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def attention(x: Tensor, name: str) -> Tensor:
        outputs = []
        for head in linear(x, f"{name}.query_key_value").chunk(heads, axis=-1):
            query, key, value = head.chunk(3, axis=-1)
            query, key = rotated(query, positions), rotated(key, positions)
            scores = query @ key.T / math.sqrt(query.shape[-1])
            outputs.append(softmax(scores + hidden, axis=-1) @ value)
        return linear(paddle.concat(outputs, axis=-1), f"{name}.dense")

    def feed_forward(x: Tensor, name: str) -> Tensor:
        value, gate = linear(x, f"{name}.dense_h_to_4h").chunk(2, axis=-1)
        return linear(gelu(gate) * value, f"{name}.dense_4h_to_h")

    hidden = paddle.to_tensor(
        [
            [0.0 if key < prefix or key <= query else -math.inf for key in range(len(tokens))]
            for query in range(len(tokens))
        ],
        dtype="float64",
    )
    alpha = math.sqrt(2 * layers)
    embedding = weights["transformer.word_embeddings.weight"]
    x = embedding[paddle.to_tensor(tokens)]
    x = x * gradient_share + x.detach() * (1 - gradient_share)
    names = [f"transformer.layers.{layer}" for layer in range(layers)]
    x = layer_norm(x, f"{names[0]}.input_layernorm")
    for name, following in zip(names, [*names[1:], None], strict=True):
        x = alpha * x + attention(x, f"{name}.attention")
        x = layer_norm(x, f"{name}.post_attention_layernorm")
        x = alpha * x + feed_forward(x, f"{name}.mlp")
        after = f"{following}.input_layernorm" if following else "transformer.final_layernorm"
        x = layer_norm(x, after)
    return x @ embedding.T


def rotated(x: Tensor, positions: np.ndarray) -> Tensor:
    """Vectors [S, D], of which the pairs (i, i + D/2) turn by position · 10000^(-2 i / D)."""
    half = x.shape[-1] // 2
    turned = []
    for row, position in enumerate(positions.tolist()):
        angles = [position * 10000.0 ** (-i / half) for i in range(half)]
        cos = paddle.to_tensor([math.cos(angle) for angle in angles], dtype="float64")
        sin = paddle.to_tensor([math.sin(angle) for angle in angles], dtype="float64")
        first, second = x[row, :half], x[row, half:]
        turned.append(paddle.concat([first * cos - second * sin, second * cos + first * sin]))
    return paddle.stack(turned)


def loss_of(logits: list[Tensor], labels: np.ndarray) -> Tensor:
    """The mean over the labels of all samples that are not -100."""
    losses = [
        cross_entropy(
            rows[paddle.to_tensor(np.flatnonzero(wanted != -100))],
            paddle.to_tensor(wanted[wanted != -100]),
            reduction="sum",
        )
        for rows, wanted in zip(logits, labels, strict=True)
    ]
    return sum(losses, start=paddle.zeros([], "float64")) / int((labels != -100).sum())
