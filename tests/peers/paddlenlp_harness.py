"""Runs in PaddleNLP's environment: its models from weights that this program saved.

Usage: paddlenlp_harness.py DIRECTORY

Every folder of DIRECTORY is a case: `saved/` (weights of this program) and `inputs.npz` (tokens and
labels [B, S]; for ChatGLM also position_ids, block_position_ids and prefix_ends). With a
`published.json`, a config, the weights stand under Hugging Face's names; without, `saved/` is a
model in PaddleNLP's own layout. Written to the folder: `results.npz` with the logits, the loss,
every gradient under "gradient/<name>", and "evaluation_logits", those of a model that is not
training.
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
# What stands under each name, and whether it is transposed there: a parameter, or several whose
# outputs are packed in one tensor.
Places = dict[str, tuple[list[paddle.Tensor], bool]]


def run_case(case: Path) -> None:
    inputs = dict(np.load(case / "inputs.npz"))
    model, places = load_published(case) if (case / "published.json").exists() else load_own(case)
    model.train()
    logits = logits_of(model, inputs)
    labels = paddle.to_tensor(inputs["labels"])
    # Paddle's own mean counts the labels that it ignores.
    loss = cross_entropy(logits[labels != -100], labels[labels != -100])
    loss.backward()
    results = {"logits": logits.numpy(), "loss": loss.numpy()}
    for name, (parts, is_transposed) in places.items():
        gradient = np.concatenate([part.grad.numpy() for part in parts], axis=-1)
        results[f"gradient/{name}"] = gradient.T if is_transposed else gradient
    model.eval()
    results["evaluation_logits"] = logits_of(model, inputs).numpy()
    np.savez(case / "results.npz", **results)


def load_published(case: Path) -> tuple[paddle.nn.Layer, Places]:
    published = json.loads((case / "published.json").read_text())
    config_class, model_class = CLASSES[published["model_type"]]
    # The mapping of names includes the head's only for a class that has one.
    config = config_class(**{**published, "architectures": [model_class.__name__]})
    model = model_class(config)
    parameters = dict(model.named_parameters())
    places: Places = {}
    for mapping in model_class._get_name_mappings(config):
        if mapping.target_name in parameters:
            parts, _ = places.setdefault(mapping.source_name, ([], mapping.action == "transpose"))
            parts.append(parameters.pop(mapping.target_name))
    assert not parameters, f"no names for {list(parameters)}"
    weights = load_file(case / "saved" / "model.safetensors")
    assert weights.keys() == places.keys(), weights.keys() ^ places.keys()
    for name, (parts, is_transposed) in places.items():
        whole = weights[name].T if is_transposed else weights[name]
        for parameter, part in zip(parts, np.split(whole, len(parts), axis=-1), strict=True):
            parameter.set_value(part)
    return model, places


def load_own(case: Path) -> tuple[paddle.nn.Layer, Places]:
    model = transformers.AutoModelForCausalLM.from_pretrained(str(case / "saved"), dtype="float32")
    return model, {name: ([parameter], False) for name, parameter in model.named_parameters()}


def logits_of(model: paddle.nn.Layer, inputs: dict[str, np.ndarray]) -> paddle.Tensor:
    output = model(input_ids=paddle.to_tensor(inputs["tokens"]), **structure(inputs))
    return output[0] if isinstance(output, tuple) else output


def structure(inputs: dict[str, np.ndarray]) -> dict[str, paddle.Tensor]:
    if "prefix_ends" not in inputs:
        return {}
    place = np.arange(inputs["tokens"].shape[1])
    in_context = place[None, None, :] < inputs["prefix_ends"][:, :, None]
    visible = (place[None, :] <= place[:, None])[None] | in_context
    positions = np.stack([inputs["position_ids"], inputs["block_position_ids"]], axis=1)
    return {
        "position_ids": paddle.to_tensor(positions),
        "attention_mask": paddle.to_tensor(visible[:, None]),
    }


if __name__ == "__main__":
    paddle.set_device("cpu")
    for case in sorted(Path(sys.argv[1]).iterdir()):
        try:
            run_case(case)
        except Exception as error:
            config = (case / "saved" / "config.json").read_text()
            raise RuntimeError(f"{case.name}: {config}") from error
