"""Reads a JSON or YAML file of flat keys, and remembers the line of each."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class FileContent:
    """What a file holds: values and line numbers (from 1) by key, and the problems found."""

    values: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


class _Loader(yaml.SafeLoader):
    """YAML with the scalars of version 1.2: `no` is a text, `3e-05` a number, no dates."""


_REPLACED = tuple(f"tag:yaml.org,2002:{kind}" for kind in ("bool", "int", "float", "timestamp"))
_Loader.yaml_implicit_resolvers = {
    first: [resolver for resolver in resolvers if resolver[0] not in _REPLACED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"^[-+]?(0|[1-9][0-9]*)$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?$"),
    list("-+.0123456789"),
)


def read_config_file(path: Path) -> FileContent:
    """Values of `path` (.json, .yaml or .yml); what is wrong with it is in `problems`."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return FileContent(problems=[f"{path}: there is no such file"])
    except IsADirectoryError:
        return FileContent(problems=[f"{path}: is a directory; give the file in it"])
    except UnicodeDecodeError:
        return FileContent(problems=[f"{path}: is not a text file in UTF-8"])
    except OSError as error:
        return FileContent(problems=[f"{path}: cannot be read: {error.strerror}"])
    if path.suffix.lower() == ".json":
        return _read_json(path.name, text)
    if path.suffix.lower() in (".yaml", ".yml"):
        return _read_yaml(path.name, text)
    return FileContent(problems=[f"{path}: a configuration is a .json, .yaml or .yml file"])


def _read_json(name: str, text: str) -> FileContent:
    pairs: list[tuple[str, Any]] = []

    def take(found: list[tuple[str, Any]]) -> dict[str, Any]:
        pairs[:] = found  # the outermost object is closed last
        return dict(found)

    try:
        value = json.loads(text, object_pairs_hook=take)
    except json.JSONDecodeError as error:
        where = f"{name}, line {error.lineno}, column {error.colno}"
        return FileContent(problems=[f"{where}: this is not JSON: {error.msg}"])
    except RecursionError:
        return FileContent(problems=[f"{name}: values are nested too deeply"])
    except ValueError as error:  # a number of more digits than Python reads
        return FileContent(problems=[f"{name}: this is not JSON: {error}"])
    if not isinstance(value, dict):
        return FileContent(problems=[_not_a_mapping(name, value)])
    lines = _json_lines(text)
    return _collect(name, [(key, found, _line(lines, key, i)) for i, key, found in _count(pairs)])


def _count(pairs: list[tuple[str, Any]]) -> list[tuple[int, str, Any]]:
    """(how many times the key came before, key, value)."""
    seen: dict[str, int] = {}
    counted = []
    for key, value in pairs:
        counted.append((seen.get(key, 0), key, value))
        seen[key] = seen.get(key, 0) + 1
    return counted


def _json_lines(text: str) -> list[tuple[str, int]]:
    found = []
    for match in re.finditer(r'("(?:[^"\\\n]|\\.)*")\s*:', text):
        found.append(
            (json.loads(match.group(1), strict=False), text.count("\n", 0, match.start()) + 1)
        )
    return found


def _line(lines: list[tuple[str, int]], key: str, occurrence: int) -> int:
    numbers = [number for name, number in lines if name == key]
    return numbers[min(occurrence, len(numbers) - 1)] if numbers else 1


def _read_yaml(name: str, text: str) -> FileContent:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            value = loader.construct_document(node) if node is not None else None
            return FileContent(problems=[_not_a_mapping(name, value)])
        entries = [
            (
                str(loader.construct_object(key, deep=True)),
                loader.construct_object(value, deep=True),
                key.start_mark.line + 1,
            )
            for key, value in node.value
        ]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{name}, line {mark.line + 1}, column {mark.column + 1}" if mark else name
        return FileContent(problems=[f"{where}: this is not YAML: {error.problem}"])
    except (yaml.YAMLError, ValueError) as error:
        return FileContent(problems=[f"{name}: this is not YAML: {error}"])
    except RecursionError:
        return FileContent(problems=[f"{name}: values are nested too deeply"])
    finally:
        loader.dispose()
    return _collect(name, entries)


def _collect(name: str, entries: list[tuple[str, Any, int]]) -> FileContent:
    content = FileContent()
    for key, value, line in entries:
        if key in content.values:
            content.problems.append(
                f"{name}, line {line}: {key} is given twice (first in line {content.lines[key]}); "
                "keep one"
            )
            continue
        content.values[key] = value
        content.lines[key] = line
    return content


def _not_a_mapping(name: str, value: Any) -> str:
    kind = "nothing" if value is None else f"a {type(value).__name__}"
    return f"{name}: a configuration is a set of keys and values, but this file holds {kind}"
