"""Runs in PaddleNLP's environment: its models from weights that this program saved.

Usage: paddlenlp_harness.py DIRECTORY

Every folder of DIRECTORY is a case: `published.json` (a config), `saved/` (weights of this program,
under Hugging Face's names) and `tokens.npy` [B, S]. Written to it: `results.npz` with the logits,
the loss, every gradient under "gradient/<Hugging Face's name>", and "evaluation_logits", those of
a model that is not training.
"""

import json
import sys
from pathlib import Path

import numpy as np
import paddle
from paddle.nn.functional import cross_entropy
from paddlenlp import transformers
from safetensors.numpy import load_file

CLASSES = {
    "gpt": (transformers.GPTConfig, transformers.GPTForCausalLM),
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
    "qwen": (transformers.QWenConfig, transformers.QWenForCausalLM),
}


def run_case(case: Path) -> None:
    published = json.loads((case / "published.json").read_text())
    config_class, model_class = CLASSES[published["model_type"]]
    # The mapping of names includes the head's only for a class that has one.
    config = config_class(**{**published, "architectures": [model_class.__name__]})
    model = model_class(config)
    parameters = dict(model.named_parameters())
    # What stands under each name: a parameter, or several whose outputs are packed in one tensor.
    places: dict[str, list[paddle.Tensor]] = {}
    transposed = set()
    for mapping in model_class._get_name_mappings(config):
        if mapping.target_name in parameters:
            places.setdefault(mapping.source_name, []).append(parameters.pop(mapping.target_name))
            if mapping.action == "transpose":
                transposed.add(mapping.source_name)
    assert not parameters, f"no names for {list(parameters)}"
    weights = load_file(case / "saved" / "model.safetensors")
    assert weights.keys() == places.keys(), weights.keys() ^ places.keys()
    for name, parts in places.items():
        whole = weights[name].T if name in transposed else weights[name]
        for parameter, part in zip(parts, np.split(whole, len(parts), axis=-1), strict=True):
            parameter.set_value(part)

    tokens = paddle.to_tensor(np.load(case / "tokens.npy"))
    model.train()
    logits = logits_of(model, tokens)
    loss = cross_entropy(logits[:, :-1], tokens[:, 1:])
    loss.backward()
    results = {"logits": logits.numpy(), "loss": loss.numpy()}
    for name, parts in places.items():
        gradient = np.concatenate([part.grad.numpy() for part in parts], axis=-1)
        results[f"gradient/{name}"] = gradient.T if name in transposed else gradient
    model.eval()
    results["evaluation_logits"] = logits_of(model, tokens).numpy()
    np.savez(case / "results.npz", **results)


def logits_of(model: paddle.nn.Layer, tokens: paddle.Tensor) -> paddle.Tensor:
    output = model(input_ids=tokens)
    return output[0] if isinstance(output, tuple) else output


if __name__ == "__main__":
    paddle.set_device("cpu")
    for case in sorted(Path(sys.argv[1]).iterdir()):
        run_case(case)
