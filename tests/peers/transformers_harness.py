"""Runs in the environment of transformers: its models from weights that this program saved.

Usage: transformers_harness.py DIRECTORY

Every folder of DIRECTORY is a case: `published.json` (a config), `saved/` (weights and config.json
of this program) and `tokens.npy` [B, S]. Written to it: `results.npz` (logits and loss of the
published config, logits of the saved one, every gradient under "gradient/<name>") and the same
model as transformers saves it in `again/` (one file), `again-sharded/` and `again-bfloat16/`.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel


def run_case(case: Path) -> None:
    published = json.loads((case / "published.json").read_text())
    tokens = torch.from_numpy(np.load(case / "tokens.npy"))
    model = load(case / "saved", config=AutoConfig.for_model(**published))
    output = model(input_ids=tokens, labels=tokens)
    output.loss.backward()
    results = {
        "logits": output.logits.detach().numpy(),
        "loss": output.loss.detach().numpy(),
        **{f"gradient/{name}": p.grad.numpy() for name, p in model.named_parameters()},
    }
    model.save_pretrained(case / "again")
    model.save_pretrained(case / "again-sharded", max_shard_size="1KB")
    with torch.no_grad():
        results["saved_logits"] = load(case / "saved")(input_ids=tokens).logits.numpy()
    model.to(torch.bfloat16).save_pretrained(case / "again-bfloat16")
    np.savez(case / "results.npz", **results)


def load(directory: Path, **settings: object) -> PreTrainedModel:
    model, information = AutoModelForCausalLM.from_pretrained(
        directory,
        attn_implementation="eager",
        dtype=torch.float32,
        output_loading_info=True,
        **settings,
    )
    wrong = {kind: names for kind, names in information.items() if names}
    assert not wrong, f"{directory}: {wrong}"
    return model


if __name__ == "__main__":
    torch.set_num_threads(1)
    for case in sorted(Path(sys.argv[1]).iterdir()):
        try:
            run_case(case)
        except Exception as error:
            config = (case / "published.json").read_text()
            raise RuntimeError(f"{case.name}: {config}") from error
