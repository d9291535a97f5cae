"""A plain PyTorch LLaMA with fused projections: torch_llama.py SHAPE.json STEPS RESULT.json DTYPE
MODE, where MODE is one of `torch.compile`, or "" for none.

B batch, S sequence, H hidden, N heads, K key–value heads, D size of a head, V vocabulary.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from timing import time_steps
from torch import Tensor, nn
from torch.nn import functional as F

shape = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
B, S = shape["batch"], shape["sequence"]
H, N, V = shape["hidden_size"], shape["num_attention_heads"], shape["vocab_size"]
K, D, width = shape["num_key_value_heads"], H // N, shape["intermediate_size"]
low_precision = sys.argv[4] == "bfloat16"


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return (x * cosine + torch.cat([-second, first], -1) * sine).to(x.dtype)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention_norm, self.feed_forward_norm = nn.RMSNorm(H), nn.RMSNorm(H)
        self.query_key_value = nn.Linear(H, (N + 2 * K) * D, bias=False)
        self.output = nn.Linear(H, H, bias=False)
        self.gate_up = nn.Linear(H, 2 * width, bias=False)
        self.down = nn.Linear(width, H, bias=False)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        fused = self.query_key_value(self.attention_norm(x))
        heads = fused.view(B, S, N + 2 * K, D).transpose(1, 2)
        query, key, value = heads.split([N, K, K], 1)
        query, key = rotate(query, cosine, sine), rotate(key, cosine, sine)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=K < N)
        x = x + self.output(mixed.transpose(1, 2).reshape(B, S, H))
        gate, up = self.gate_up(self.feed_forward_norm(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(V, H)
        self.blocks = nn.ModuleList(Block() for _ in range(shape["num_hidden_layers"]))
        self.norm = nn.RMSNorm(H)
        self.head = nn.Linear(H, V, bias=False)
        if shape["tie_word_embeddings"]:
            self.head.weight = self.embedding.weight
        frequencies = 10000.0 ** (-torch.arange(0, D, 2) / D)
        angles = torch.outer(torch.arange(S).float(), frequencies)
        angles = torch.cat([angles, angles], -1)
        self.cosine, self.sine = angles.cos(), angles.sin()

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, self.cosine, self.sine)
        return self.head(self.norm(x))


torch.manual_seed(0)
model = Model()
optimizer = torch.optim.AdamW(model.parameters(), 1e-4, weight_decay=0.1, fused=True)
tokens = torch.randint(0, V, (B, S + 1))


def loss_of(tokens: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16, enabled=low_precision):
        logits = model(tokens[:, :-1])
    return F.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())


# With the loss, which the compiler can then join to the head.
forward = torch.compile(loss_of, mode=sys.argv[5]) if sys.argv[5] else loss_of


def step() -> float:
    loss = forward(tokens)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


time_steps(step, int(sys.argv[2]), Path(sys.argv[3]))
