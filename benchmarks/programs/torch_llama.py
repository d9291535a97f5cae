"""A plain PyTorch LLaMA with fused projections: torch_llama.py SHAPE.json STEPS RESULT.json DTYPE
MODE, where MODE is one of `torch.compile`, or "" for none."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from timing import time_steps
from torch import Tensor, nn
from torch.nn import functional as F
from torch_model import Model

shape = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
low_precision = sys.argv[4] == "bfloat16"
torch.manual_seed(0)
model = Model(shape)
optimizer = torch.optim.AdamW(model.parameters(), 1e-4, weight_decay=0.1, fused=True)
tokens = torch.randint(0, shape["vocab_size"], (shape["batch"], shape["sequence"] + 1))


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
