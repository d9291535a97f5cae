"""Loads a model directory with transformers and writes its tensors: DIRECTORY OUT.safetensors."""

from __future__ import annotations

import sys

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

directory, out = sys.argv[1:]
model, report = AutoModelForCausalLM.from_pretrained(
    directory, dtype=torch.float32, output_loading_info=True
)
assert not report["missing_keys"], report
assert not report["unexpected_keys"], report
save_file({name: value.clone() for name, value in model.state_dict().items()}, out)
