"""A plain PyTorch LLaMA, as others of these programs train it.

B batch, S sequence, H hidden, N heads, K key–value heads, D size of a head, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return (x * cosine + torch.cat([-second, first], -1) * sine).to(x.dtype)


class Block(nn.Module):
    """A layer of the decoder.

    Args:
        is_fused: whether query, key and value are one product, as gate and up are; separate ones
            can each be split by columns.
    """

    def __init__(self, shape: Mapping[str, Any], *, is_fused: bool) -> None:
        super().__init__()
        H, N, K = shape["hidden_size"], shape["num_attention_heads"], shape["num_key_value_heads"]
        self.D, self.is_grouped, width = H // N, K < N, shape["intermediate_size"]
        self.attention_norm, self.feed_forward_norm = nn.RMSNorm(H), nn.RMSNorm(H)
        self.sizes = (N * self.D, K * self.D, K * self.D)
        self.is_fused = is_fused
        if is_fused:
            self.query_key_value = nn.Linear(H, sum(self.sizes), bias=False)
            self.gate_up = nn.Linear(H, 2 * width, bias=False)
        else:
            self.query, self.key, self.value = (nn.Linear(H, n, bias=False) for n in self.sizes)
            self.gate, self.up = (nn.Linear(H, width, bias=False) for _ in range(2))
        self.output = nn.Linear(H, H, bias=False)
        self.down = nn.Linear(width, H, bias=False)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        normed = self.attention_norm(x)
        if self.is_fused:
            parts: Iterable[Tensor] = self.query_key_value(normed).split(self.sizes, -1)
        else:
            parts = self.query(normed), self.key(normed), self.value(normed)
        query, key, value = (part.unflatten(-1, (-1, self.D)).transpose(1, 2) for part in parts)
        query, key = rotate(query, cosine, sine), rotate(key, cosine, sine)
        mixed = F.scaled_dot_product_attention(
            query, key, value, is_causal=True, enable_gqa=self.is_grouped
        )
        x = x + self.output(mixed.transpose(1, 2).flatten(2))
        normed = self.feed_forward_norm(x)
        if self.is_fused:
            gate, up = self.gate_up(normed).chunk(2, -1)
        else:
            gate, up = self.gate(normed), self.up(normed)
        return x + self.down(F.silu(gate) * up)


class Model(nn.Module):
    """The decoder, or the layers of a stage of a pipeline.

    Args:
        shape: as in Hugging Face's config.json, and the `sequence`.
        layers: which ones; the first comes with the embedding, the last with the head.
    """

    def __init__(
        self, shape: Mapping[str, Any], *, is_fused: bool = True, layers: range | None = None
    ) -> None:
        super().__init__()
        H, V, S = shape["hidden_size"], shape["vocab_size"], shape["sequence"]
        count = shape["num_hidden_layers"]
        layers = range(count) if layers is None else layers
        self.is_first, self.is_last = layers.start == 0, layers.stop == count
        if self.is_first:
            self.embedding = nn.Embedding(V, H)
        self.blocks = nn.ModuleList(Block(shape, is_fused=is_fused) for _ in layers)
        if self.is_last:
            self.norm = nn.RMSNorm(H)
            self.head = nn.Linear(H, V, bias=False)
        if shape["tie_word_embeddings"]:
            self.head.weight = self.embedding.weight
        D = H // shape["num_attention_heads"]
        frequencies = 10000.0 ** (-torch.arange(0, D, 2) / D)
        angles = torch.outer(torch.arange(S).float(), frequencies)
        angles = torch.cat([angles, angles], -1)
        self.cosine, self.sine = angles.cos(), angles.sin()

    def forward(self, x: Tensor) -> Tensor:
        if self.is_first:
            x = self.embedding(x)
        for block in self.blocks:
            x = block(x, self.cosine, self.sine)
        return self.head(self.norm(x)) if self.is_last else x
