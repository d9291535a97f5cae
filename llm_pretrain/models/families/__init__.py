"""The families of models that can be trained, and which config a run trains.

A `Family` maps a published config.json to a `ModelConfig` and back and says where the published
weights stand. Nothing here needs a deep-learning framework or a network.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from llm_pretrain.config import ConfigError, ModelArguments
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.models.families.baichuan import Baichuan
from llm_pretrain.models.families.bloom import Bloom
from llm_pretrain.models.families.chatglm import ChatGlm
from llm_pretrain.models.families.chatglm2 import ChatGlm2
from llm_pretrain.models.families.family import Family
from llm_pretrain.models.families.gpt import Gpt
from llm_pretrain.models.families.llama import Llama
from llm_pretrain.models.families.opt import Opt
from llm_pretrain.models.families.qwen import Qwen
from llm_pretrain.models.families.qwen2 import Qwen2, Qwen3

# A family is named here and nowhere else.
_FAMILIES: tuple[Family, ...] = (
    Llama(),
    Baichuan(),
    Bloom(),
    Gpt(),
    Opt(),
    ChatGlm(),
    ChatGlm2(),
    Qwen(),
    Qwen2(),
    Qwen3(),
)

FAMILIES: dict[str, Family] = {
    model_type: family for family in _FAMILIES for model_type in family.model_types
}
"""By `model_type` of a published config.json."""


def _published_by_name(kind: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The configs of one `model_type` in seeds.json.

    Each is a list of which later parts win: numbers under the names of "sizes", an object, or the
    name of a shared object or of a model before.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, parts in kind["models"].items():
        found[name] = dict(kind["all"])
        for part in parts:
            if isinstance(part, list):
                part = zip(kind["sizes"], part, strict=True)
            elif isinstance(part, str):
                part = kind["shared"][part] if part in kind["shared"] else found[part]
            found[name].update(part)
    return found


_SEEDS = json.loads(Path(__file__).with_name("seeds.json").read_text(encoding="utf-8"))
SEEDS: dict[str, dict[str, Any]] = {
    name: published
    for kind in _SEEDS.values()
    for name, published in _published_by_name(kind).items()
}
"""Published configs, with the sizes of the published files, by the names that users type."""
CAPABILITIES: dict[str, str] = {
    model: seed for kind in _SEEDS.values() for model, seed in kind["capabilities"].items()
}
"""Models of the capability table, each with the seed of its architecture that the tests run."""

_VOCABULARY_MULTIPLE = 128
_CHANGEABLE = (
    "num_hidden_layers",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "initializer_range",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "fuse_attention_qkv",
    "fuse_attention_ffn",
)


def family_of(model: ModelConfig) -> Family:
    """The family of `model`."""
    return FAMILIES[model.family]


def is_redundant(published: str, model: ModelConfig) -> bool:
    """Whether Hugging Face's files may hold a tensor that no parameter is read from.

    A tied head is the embedding once more; the family names the others.
    """
    family = family_of(model)
    if model.tie_word_embeddings and published == family.source("head.weight", model).name:
        return True
    return published.endswith(family.ignored)


def load_model_config(
    model_name_or_path: str,
    model_arguments: ModelArguments,
    *,
    tokenizer_vocab_size: int | None = None,
    max_seq_length: int,
) -> ModelConfig:
    """The model of a run: the published config with the run's changes.

    Args:
        model_name_or_path: a directory that holds config.json, or a name of `SEEDS`.
        model_arguments: the changes of the run.
        tokenizer_vocab_size: with added tokens; None when there is no tokenizer.
        max_seq_length: tokens of a sample.

    A model that starts from random weights gets room for the samples and for the tokenizer, whose
    size is rounded up to a multiple of 128; with `resize_vocabulary` one that continues from
    published weights does, too, where the tokenizer has more tokens. Without, it has just as many
    rows as there are tokens then, which the weights have not: `training.preflight` says so.

    Raises:
        ConfigError: nothing of that name, or a config that this program can't train.
    """
    published, source = _published_config(model_name_or_path)
    config = replace(
        model_of_config(*_changed(published, source, model_arguments)),
        use_flash_attention=bool(model_arguments.use_flash_attention),
        use_fused_linear_cross_entropy=bool(model_arguments.use_fused_linear_cross_entropy),
    )
    tokens = tokenizer_vocab_size or 0
    if not model_arguments.continue_training:
        return replace(
            config,
            max_position_embeddings=max(config.max_position_embeddings, max_seq_length),
            vocab_size=max(config.vocab_size, _padded(tokens)),
        )
    if tokens > config.vocab_size:
        rows = _padded(tokens) if model_arguments.resize_vocabulary else tokens
        return replace(config, vocab_size=rows)
    return config


def read_model_config(directory: str | Path, argument: str = "model_name_or_path") -> ModelConfig:
    """The model whose config.json stands in `directory`, which `argument` names, unchanged."""
    return model_of_config(*_published_config(str(directory), argument))


def model_of_config(published: Mapping[str, Any], source: str) -> ModelConfig:
    """The model that a parsed config.json describes; `source` is its name for error messages."""
    kind = published.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise ConfigError(
            [f"{source}: model_type: {kind!r} is not supported; supported: {', '.join(FAMILIES)}."]
        )
    return FAMILIES[kind].read_config(published, source)


def _published_config(
    name_or_path: str, argument: str = "model_name_or_path"
) -> tuple[dict[str, Any], str]:
    """The parsed config and what to call it in error messages."""
    if name_or_path in SEEDS and not Path(name_or_path).is_dir():
        return dict(SEEDS[name_or_path]), name_or_path
    if not Path(name_or_path).is_dir():
        raise ConfigError([_unknown_name(name_or_path)])
    path = Path(name_or_path) / "config.json"
    try:
        published = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            [f"{argument}: {name_or_path} is a directory without a config.json."]
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError([f"{path}: can't be read as JSON: {error}."]) from None
    if not isinstance(published, dict):
        raise ConfigError([f"{path}: must hold one JSON object."])
    return published, str(path)


def _unknown_name(name: str) -> str:
    if name.startswith(("/", "./", "../")):
        return f"model_name_or_path: there is no directory {name}."
    by_lower = {seed.lower(): seed for seed in SEEDS}
    near = difflib.get_close_matches(name.lower(), by_lower, n=4, cutoff=0.5)
    known = ", ".join(by_lower[match] for match in near) or "those that docs/models.md lists"
    label = "Near names" if near else "Known names"
    return (
        f"model_name_or_path: {name!r} is neither a directory nor the name of a built-in config. "
        f"{label}: {known}. A directory that holds a config.json works too."
    )


def _changed(
    published: dict[str, Any], source: str, arguments: ModelArguments
) -> tuple[dict[str, Any], str]:
    """The published config with what the run sets itself, and what to call it."""
    changes = {key: getattr(arguments, key) for key in _CHANGEABLE}
    changes = {key: value for key, value in changes.items() if value is not None}
    if changes:
        source = f"{source} changed by {', '.join(changes)}"
    multi_head = published.get("num_key_value_heads") == published.get("num_attention_heads")
    if "num_attention_heads" in changes and multi_head:
        changes["num_key_value_heads"] = changes["num_attention_heads"]
    return published | changes, source


def _padded(vocab_size: int) -> int:
    return -(-vocab_size // _VOCABULARY_MULTIPLE) * _VOCABULARY_MULTIPLE
