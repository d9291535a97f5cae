"""Where the tensors of a family stand in files that PaddleNLP reads and writes.

The names are those of PaddleNLP 3.0's model classes; weights of linear layers are [in, out], as
here. Its optional fused layers (`fuse_attention_qkv`, `fuse_attention_ffn`) have tensors of
their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from llm_pretrain.config.errors import ConfigError
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.models.families import family_of, llama
from llm_pretrain.models.families.published import Blocks, Source, one_block


def source(canonical: str, config: ModelConfig) -> Source:
    """Where a tensor stands in PaddleNLP's files.

    Raises:
        ConfigError: PaddleNLP has no model of this family.
    """
    if config.family not in _SOURCES:
        raise ConfigError(
            [
                f"PaddleNLP's layout is known for {', '.join(_SOURCES)}; "
                f"it has no model that corresponds to the family {config.family}."
            ]
        )
    return _SOURCES[config.family](canonical, config)


def _llama_like(model: str) -> Callable[[str, ModelConfig], Source]:
    """The names of Hugging Face's LLaMA, with the class's own name in front, and fused layers."""

    def source(canonical: str, config: ModelConfig) -> Source:
        scope, _, rest = canonical.partition("attention.")
        name, _, kind = rest.partition(".")
        if config.fuse_attention_qkv and name in ("query", "key", "value"):
            return Source(
                f"{model}.{scope}self_attn.qkv_proj.{kind}", outputs=_grouped(name, config)
            )
        scope, _, rest = canonical.partition("feed_forward.")
        name, _, kind = rest.partition(".")
        if config.fuse_attention_ffn and name in ("gate", "up"):
            size = config.intermediate_size
            return Source(
                f"{model}.{scope}mlp.gate_up_fused_proj.{kind}",
                outputs=one_block(0 if name == "gate" else size, size, 2 * size),
            )
        return _renamed(llama.source(canonical, config), "model.", f"{model}.")

    return source


def _grouped(name: str, config: ModelConfig) -> Blocks:
    """Each key head follows its query heads, and its value head follows it."""
    groups, size = config.num_key_value_heads, config.head_dim
    queries = config.num_attention_heads // groups * size
    stride = queries + 2 * size
    start, length = {
        "query": (0, queries),
        "key": (queries, size),
        "value": (queries + size, size),
    }[name]
    return Blocks(start, groups, length, stride, groups * stride)


def _renamed(source: Source, prefix: str, paddle_prefix: str) -> Source:
    name = source.name
    if name.startswith(prefix):
        name = paddle_prefix + name.removeprefix(prefix)
    return replace(source, name=name, is_transposed=False)


def _prefixed(prefix: str, paddle_prefix: str) -> Callable[[str, ModelConfig], Source]:
    """Hugging Face's names but for what they begin with."""

    def source(canonical: str, config: ModelConfig) -> Source:
        return _renamed(family_of(config).source(canonical, config), prefix, paddle_prefix)

    return source


_SOURCES: dict[str, Callable[[str, ModelConfig], Source]] = {
    "llama": _llama_like("llama"),
}
