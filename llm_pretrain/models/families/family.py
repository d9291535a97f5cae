"""A family of models as tables that hold both ways, between published files and this program."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, ClassVar

from llm_pretrain.config.model_config import BlankInfilling, ModelConfig, Rope
from llm_pretrain.models.families.fields import Fields
from llm_pretrain.models.families.published import Packed, Source, named_source

Values = dict[str, Any]
"""Arguments of `ModelConfig`; a field of an object among them has its name after a dot."""
_OBJECTS = {"rope": Rope, "blank_infilling": BlankInfilling}


@dataclass(frozen=True)
class Key:
    """One setting: what it is in config.json, and what in `ModelConfig`."""

    field: str
    """As in `Values`."""
    read: Callable[..., Any]
    """Takes the `Fields`, the key and the default, as methods of `Fields` do."""
    names: tuple[str, ...]
    """In config.json: of those that are there the first counts."""
    written: str
    """The one of them that is written."""
    default: Any = None
    """Where the key may be left out: a value, or a function of the values before this one."""

    def value(self, fields: Fields, before: Values) -> Any:
        """What `fields` say; problems go there."""
        name = fields.first(*self.names)
        default = self.default(before) if callable(self.default) else self.default
        return self.read(fields, name) if default is None else self.read(fields, name, default)


def key(
    field: str,
    read: Callable[..., Any],
    *names: str,
    default: Any = None,
    written: str | None = None,
) -> Key:
    """A row: without names the key has the field's; the last of several names is written."""
    names = names or (field,)
    return Key(field, read, names, written or names[-1], default)


SIZES = (
    key("vocab_size", Fields.positive_integer),
    key("hidden_size", Fields.positive_integer),
    key("intermediate_size", Fields.positive_integer),
    key("num_hidden_layers", Fields.positive_integer),
    key("num_attention_heads", Fields.positive_integer),
)
"""Under their usual names."""


def common_keys(*, tied: bool = False) -> tuple[Key, ...]:
    """What all families have under the same keys.

    Args:
        tied: whether the head has the embedding's table where the file does not say.
    """
    return (
        key("initializer_range", Fields.number, default=0.02),
        key("tie_word_embeddings", Fields.flag, default=tied),
        key("fuse_attention_qkv", Fields.flag, default=False),
        key("fuse_attention_ffn", Fields.flag, default=False),
        key("bos_token_id", Fields.token),
        key("eos_token_id", Fields.tokens),
        key("pad_token_id", Fields.token),
    )


GPT_BLOCK: Mapping[str, Any] = {
    "norm": "layer_norm",
    "activation": "gelu_tanh",
    "is_gated": False,
    "attention_bias": True,
    "attention_output_bias": True,
    "mlp_bias": True,
}
"""`Family.fixed` of GPT-2's block, which others took over."""


def width_of_heads(values: Values) -> int:
    """That with which the heads fill hidden_size."""
    return int(max(values["hidden_size"] // values["num_attention_heads"], 1))


def four_times_hidden(values: Values) -> int:
    """The usual width of the feed-forward layer."""
    return int(4 * values["hidden_size"])


def equal_heads(values: Values, fields: Fields) -> None:
    """Complete `values` where all heads have keys of their own and share hidden_size."""
    hidden, heads = values["hidden_size"], values["num_attention_heads"]
    if hidden % heads:
        fields.problem("hidden_size", f"{hidden} is not a multiple of {heads} attention heads")
    values["num_key_value_heads"] = heads
    values["head_dim"] = width_of_heads(values)


class Family:
    """What a family's published config.json and weights are called."""

    model_types: ClassVar[tuple[str, ...]]
    """Values of "model_type"; the first is the family's name here."""
    architecture: ClassVar[str]
    """The class of transformers'."""
    keys: ClassVar[tuple[Key, ...]]
    """Settings that differ from model to model."""
    fixed: ClassVar[Mapping[str, Any]] = {}
    """`Values` of every model."""
    defaults: ClassVar[Mapping[str, Any]] = {}
    """What keys are that a config.json leaves out."""
    written: ClassVar[Mapping[str, Any]] = {}
    """Keys of config.json that are the same for every model."""
    supported: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    """Settings that would change the arithmetic, with the values that this decoder computes."""
    names: ClassVar[Mapping[str, str]]
    """Names of tensors in Hugging Face's files, as `named_source` takes them."""
    ignored: ClassVar[tuple[str, ...]] = ()
    """How names of tensors end that files may hold and no parameter is read from."""

    def complete(self, values: Values, fields: Fields) -> None:
        """Add what follows from `values`; what is wrong goes to `fields`."""

    def also_written(self, model: ModelConfig) -> dict[str, Any]:
        """Keys of config.json that are no row of `keys`, or of another value there."""
        return {}

    def packed(self, model: ModelConfig) -> dict[str, Packed]:
        """By published names, the layers that stand together under each."""
        return {}

    def read_config(self, published: Mapping[str, Any], source: str) -> ModelConfig:
        """The model that a published config.json describes.

        Args:
            published: the parsed file.
            source: the file's name for error messages.

        Raises:
            ConfigError: every key that is missing, malformed or beyond this decoder.
        """
        fields = Fields({**self.defaults, **published}, source)
        fields.require_supported(self.supported)
        values: Values = {"family": self.model_types[0], **self.fixed}
        for row in self.keys:
            values[row.field] = row.value(fields, values)
        self.complete(values, fields)
        fields.raise_problems()
        for name, kind in _OBJECTS.items():
            inner = [field for field in values if field.startswith(f"{name}.")]
            if inner:
                values[name] = kind(
                    **{field.removeprefix(f"{name}."): values.pop(field) for field in inner}
                )
        return ModelConfig(**values)

    def write_config(self, model: ModelConfig) -> dict[str, Any]:
        """The config.json that describes `model`; read back, it is `model` again."""
        values = {row.written: attrgetter(row.field)(model) for row in self.keys}
        return {
            "architectures": [self.architecture],
            "model_type": self.model_types[0],
            **{
                name: list(value) if isinstance(value, tuple) else value
                for name, value in values.items()
            },
            **self.written,
            **self.also_written(model),
        }

    def source(self, canonical: str, model: ModelConfig) -> Source:
        """Where a tensor stands in Hugging Face's files."""
        return named_source(canonical, self.names, self.packed(model))
