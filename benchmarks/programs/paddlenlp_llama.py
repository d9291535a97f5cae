"""PaddleNLP's LlamaForCausalLM in a plain loop: paddlenlp_llama.py SHAPE.json STEPS RESULT.json."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import paddle
from paddlenlp.transformers import LlamaConfig, LlamaForCausalLM
from timing import time_steps

shape = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
batch, sequence = shape.pop("batch"), shape.pop("sequence")
paddle.seed(0)
model = LlamaForCausalLM(LlamaConfig(**shape, seq_length=sequence))
model.train()
optimizer = paddle.optimizer.AdamW(
    1e-4,
    parameters=model.parameters(),
    weight_decay=0.1,
    grad_clip=paddle.nn.ClipGradByGlobalNorm(1.0),
)
tokens = paddle.randint(0, shape["vocab_size"], [batch, sequence + 1])


def step() -> float:
    output = model(input_ids=tokens[:, :-1], labels=tokens[:, 1:])
    loss = output[0] if isinstance(output, list | tuple) else output
    loss.backward()
    optimizer.step()
    optimizer.clear_grad()
    return float(loss)


time_steps(step, int(sys.argv[2]), Path(sys.argv[3]))
