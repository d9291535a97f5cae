"""transformers' LlamaForCausalLM: transformers_llama.py SHAPE.json STEPS RESULT.json DTYPE."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from timing import time_steps
from transformers import LlamaConfig, LlamaForCausalLM

shape = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
batch, sequence = shape.pop("batch"), shape.pop("sequence")
low_precision = sys.argv[4] == "bfloat16"
torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(**shape, attn_implementation="sdpa"))
model.train()
optimizer = torch.optim.AdamW(model.parameters(), 1e-4, weight_decay=0.1, fused=True)
tokens = torch.randint(0, shape["vocab_size"], (batch, sequence + 1))
inputs, labels = tokens[:, :-1], tokens[:, 1:]


def step() -> float:
    with torch.autocast("cpu", torch.bfloat16, enabled=low_precision):
        logits = model(input_ids=inputs).logits
    loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten())
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


time_steps(step, int(sys.argv[2]), Path(sys.argv[3]))
