"""A blend as a YAML file: datasets by name, each with a weight or a number of epochs.

- name: web
  path: web/text        # a prefix, a folder or a glob, relative to this file; ~ and $NAME count
  weight: 0.7
- name: books
  path: books
  weight: 0.3
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import yaml

from llm_pretrain.config.paths import expanded
from llm_pretrain.data.errors import DataError

ENDINGS = (".yaml", ".yml")
# Some 100,000 entries.
_MOST_BYTES = 16 << 20
_KEYS = ("name", "path", "weight", "epochs")
# Composed with libyaml where PyYAML has it: 20,000 entries take seconds otherwise. Only nodes are
# made, never objects, so that a tag in the file can't do anything.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Entry:
    name: str
    path: Path
    """A prefix, a folder or a glob."""
    weight: float | None
    epochs: float | None
    """Passes over its training split; exactly one of the two is given, the same one in a file."""

    @property
    def amount(self) -> float:
        """The weight, or the epochs."""
        amount = self.weight if self.epochs is None else self.epochs
        assert amount is not None
        return amount


def read_blend_file(path: Path) -> tuple[Entry, ...]:
    """The entries in their order. Raises DataError that names the file and the line."""
    node = _compose(path)
    if not isinstance(node, yaml.SequenceNode) or not node.value:
        raise DataError(
            f"{path} is no blend: it must be a list of datasets, each with a name, a path and "
            "either weight or epochs."
        )
    entries = tuple(_entry(path, item) for item in node.value)
    if len({entry.epochs is None for entry in entries}) > 1:
        raise DataError(
            f"{path} gives weight to some datasets and epochs to others. Give one of them to all."
        )
    names: set[str] = set()
    for entry, item in zip(entries, node.value, strict=True):
        if entry.name in names:
            raise DataError(f"{_place(path, item)}: the name {entry.name!r} is used twice.")
        names.add(entry.name)
    if not any(entry.amount for entry in entries):
        raise DataError(f"{path}: every dataset has weight or epochs 0.")
    return entries


def _compose(path: Path) -> yaml.Node | None:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise DataError(f"{path} is larger than {_MOST_BYTES >> 20} MiB: it is no blend.")
        node: yaml.Node | None = yaml.compose(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path} is not YAML: {error}") from error
    return node


def _place(path: Path, node: yaml.Node) -> str:
    return f"{path}, line {node.start_mark.line + 1}"


def _entry(path: Path, node: yaml.Node) -> Entry:
    where = _place(path, node)
    if not isinstance(node, yaml.MappingNode):
        raise DataError(f"{where}: a dataset must be written as `name: …`, `path: …` and so on.")
    values: dict[str, str] = {}
    for key, value in node.value:
        if key.value not in _KEYS:
            raise DataError(
                f"{_place(path, key)}: {key.value!r} is no key of a dataset. "
                f"There are {', '.join(_KEYS)}."
            )
        if key.value in values:
            raise DataError(f"{_place(path, key)}: {key.value} is given twice.")
        if not isinstance(value, yaml.ScalarNode) or not value.value.strip():
            raise DataError(f"{_place(path, key)}: {key.value} must be a single value.")
        values[key.value] = value.value
    for key in ("name", "path"):
        if key not in values:
            raise DataError(f"{where}: the dataset has no {key}.")
    if ("weight" in values) == ("epochs" in values):
        raise DataError(f"{where}: dataset {values['name']!r} needs either weight or epochs.")
    try:
        target = expanded(values["path"])
    except ValueError as error:
        raise DataError(f"{where}: path: {error}.") from None
    return Entry(
        values["name"],
        path.parent / target,
        _amount(values, "weight", where),
        _amount(values, "epochs", where),
    )


def _amount(values: dict[str, str], key: str, where: str) -> float | None:
    if key not in values:
        return None
    try:
        amount = float(values[key])
    except ValueError:
        amount = math.nan
    if not (math.isfinite(amount) and amount >= 0):
        raise DataError(f"{where}: {key} is {values[key]!r}; it must be a number, 0 or more.")
    return amount
