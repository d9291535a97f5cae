"""How weights are named and turned in the files of Hugging Face's and of PaddleNLP's programs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.models.families import family_of, is_redundant, paddlenlp
from llm_pretrain.models.families.published import Source


@dataclass(frozen=True)
class Layout:
    """One program's way to write a model down."""

    program: str
    framework: str
    """What its safetensors files say of themselves."""
    dtype_key: str
    """The key of config.json for the type of the weights."""
    write_config: Callable[[ModelConfig], dict[str, Any]]
    source: Callable[[str, ModelConfig], Source]
    """Where a tensor of a canonical name stands."""
    is_redundant: Callable[[str, ModelConfig], bool]
    """Whether files may hold a tensor of a published name that no parameter is read from."""

    def sources(self, config: ModelConfig) -> dict[str, Source]:
        """Where each tensor of a whole model stands, by canonical name."""
        return {name: self.source(name, config) for name in config.tensor_shapes()}


HUGGING_FACE = Layout(
    "Hugging Face",
    "pt",
    "torch_dtype",
    lambda config: family_of(config).write_config(config),
    lambda canonical, config: family_of(config).source(canonical, config),
    is_redundant,
)
PADDLENLP = Layout(
    "PaddleNLP",
    "np",
    "dtype",
    paddlenlp.write_config,
    paddlenlp.source,
    paddlenlp.is_redundant,
)
