"""Runs in transformers' environment: loads each model of a directory and saves it with torch.

Usage: transformers_convert.py DIRECTORY. For every DIRECTORY/<name>/converted, a model in its
layout, writes DIRECTORY/<name>/state.npz (its tensors), DIRECTORY/<name>/bin, the same in two
files of torch.save with their index, and DIRECTORY/<name>/generated.json: 12 tokens that greedily
follow those of DIRECTORY/prompt.json.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM


def main(directory: str) -> None:
    for path in sorted(Path(directory).glob("*/converted")):
        model, report = AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, output_loading_info=True
        )
        assert not report["missing_keys"], report
        assert not report["unexpected_keys"], report
        state = model.state_dict()
        np.savez(path.parent / "state.npz", **{name: x.numpy() for name, x in state.items()})
        prompt = torch.tensor([json.loads((path.parent.parent / "prompt.json").read_text())])
        # A stop would end the text; without one all 12 are compared.
        model.generation_config.eos_token_id = None
        text = model.generate(prompt, max_new_tokens=12, do_sample=False, pad_token_id=0)
        found = text[0, prompt.shape[1] :].tolist()
        (path.parent / "generated.json").write_text(json.dumps(found))
        folder = path.parent / "bin"
        folder.mkdir()
        shutil.copy(path / "config.json", folder)
        weight_map = {}
        for number in range(2):
            file = f"pytorch_model-0000{number + 1}-of-00002.bin"
            part = dict(list(state.items())[number::2])
            torch.save(part, folder / file)
            weight_map |= dict.fromkeys(part, file)
        index = {"metadata": {}, "weight_map": weight_map}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


if __name__ == "__main__":
    main(*sys.argv[1:])
