"""Saves and loads a state here: checkpoint_ours.py SHAPE.json CHECKPOINT RESULT.json"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import paddle

from llm_pretrain.checkpoint.load import load_optimizer
from llm_pretrain.checkpoint.save import SavedState, save_checkpoint
from llm_pretrain.config import Degrees, TrainingArguments
from llm_pretrain.models.decoder import Decoder
from llm_pretrain.models.families import model_of_config
from llm_pretrain.parallel.comm.topology import Topology
from llm_pretrain.parallel.sharding.optimizer import LossScale, ShardedAdamW
from llm_pretrain.parallel.sharding.pieces import initialize

published = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
shape = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
checkpoint, result = map(Path, sys.argv[2:])
paddle.device.set_device("cpu")
model = model_of_config({**published, **shape}, "the benchmark's model")
alone = Topology(
    Degrees(data=1, sharding=1, tensor=1, pipeline=1, sep=1, context=1, virtual_pipeline=1)
)
decoder = Decoder(model)
initialize(decoder, 0)
training = TrainingArguments(output_dir="out")  # type: ignore[call-arg]
optimizer = ShardedAdamW(decoder, training, alone, tied_embedding=model.tie_word_embeddings)
size = 1, shape["sequence"] + 1
tokens = paddle.to_tensor(np.random.default_rng(0).integers(0, model.vocab_size, size))
optimizer.begin_step(1)
decoder(tokens[:, :-1], labels_BS=tokens[:, 1:]).mean().backward()
norm = float(optimizer.reduce_gradients())
optimizer.step(norm, 1e-4, LossScale(1.0, is_dynamic=False))

saved = SavedState(checkpoint.parent, decoder, model, optimizer, alone)
began = time.perf_counter()
save_checkpoint(saved, saved.part(checkpoint, {}, []))
save = time.perf_counter() - began
for path in checkpoint.rglob("*"):
    if path.is_file():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
began = time.perf_counter()
optimizer.restore(*load_optimizer(checkpoint, optimizer.buckets, optimizer.betas))
load = time.perf_counter() - began
result.write_text(json.dumps({"save": save, "load": load}))
