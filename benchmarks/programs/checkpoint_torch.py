"""Saves and loads a state by torch.distributed.checkpoint: checkpoint_torch.py SHAPE.json
CHECKPOINT RESULT.json"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch_model import Model

shape = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
checkpoint, result = map(Path, sys.argv[2:])
model = Model(shape)
optimizer = torch.optim.AdamW(model.parameters(), 1e-4, weight_decay=0.1)
tokens = torch.randint(0, shape["vocab_size"], (1, shape["sequence"]))
model(tokens).float().mean().backward()
optimizer.step()
optimizer.zero_grad()


def state() -> dict[str, Any]:
    weights, moments = get_state_dict(model, optimizer)
    return {"model": weights, "optimizer": moments}


began = time.perf_counter()
writer = dcp.FileSystemWriter(checkpoint, thread_count=2, sync_files=True)
dcp.save(state(), storage_writer=writer)
save = time.perf_counter() - began
for path in checkpoint.rglob("*"):
    if path.is_file():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
began = time.perf_counter()
loaded = state()
dcp.load(loaded, storage_reader=dcp.FileSystemReader(checkpoint))
set_state_dict(
    model, optimizer, model_state_dict=loaded["model"], optim_state_dict=loaded["optimizer"]
)
load = time.perf_counter() - began
result.write_text(json.dumps({"save": save, "load": load}))
