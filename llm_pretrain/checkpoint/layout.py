"""How weights are named and turned in the files of Hugging Face's and of PaddleNLP's programs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.models.families import family_of, paddlenlp
from llm_pretrain.models.families.published import Source


@dataclass(frozen=True)
class Layout:
    """One program's way to write weights down."""

    program: str
    framework: str
    """What its safetensors files say of themselves."""
    dtype_key: str
    """The key of config.json for the type of the weights."""
    source: Callable[[str, ModelConfig], Source]
    """Where a tensor of a canonical name stands."""

    def sources(self, config: ModelConfig) -> dict[str, Source]:
        """Where each tensor of a whole model stands, by canonical name."""
        return {name: self.source(name, config) for name in config.tensor_shapes()}


def _hugging_face_source(canonical: str, config: ModelConfig) -> Source:
    source: Source = family_of(config).source(canonical, config)
    return source


HUGGING_FACE = Layout("Hugging Face", "pt", "torch_dtype", _hugging_face_source)
PADDLENLP = Layout("PaddleNLP", "np", "dtype", paddlenlp.source)
