"""Joins defaults, file and command line into a checked RunConfig."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from llm_pretrain.config import keys
from llm_pretrain.config.argument_types import Arguments, ConfigError, expanded, shown
from llm_pretrain.config.config_file import read_config_file
from llm_pretrain.config.cross_checks import cross_checks, idle_values
from llm_pretrain.config.foreign_keys import INERT, SPELLINGS
from llm_pretrain.config.given import (
    COMMAND_LINE,
    Collection,
    Given,
    file_value,
    read_command_line,
    typed_value,
)
from llm_pretrain.config.model_arguments import DataArguments, ModelArguments
from llm_pretrain.config.parallel_options import INERT_OPTIONS
from llm_pretrain.config.run_config import RunConfig
from llm_pretrain.config.training_arguments import TrainingArguments
from llm_pretrain.config.translation import translate


def load_run_config(path: str | Path | None, overrides: Sequence[str] = ()) -> RunConfig:
    """The configuration in a JSON or YAML file, changed by the command line.

    Args:
        path: the file; None takes everything from the command line and the defaults.
        overrides: `["--key", "value", "--key=value", "--switch", …]`.

    Raises:
        ConfigError: every problem that was found, each naming the file or the command line, and
            the key.
    """
    run, problems = examine(path, overrides)
    if problems or run is None:
        raise ConfigError(problems)
    return run


def examine(
    path: str | Path | None, overrides: Sequence[str] = ()
) -> tuple[RunConfig | None, list[str]]:
    """What `load_run_config` would return, and the problems for which it would raise.

    The configuration is there in spite of wrong values, for which defaults stand, and of conflicts,
    so that more can be checked; it is None where the file can't be read.
    """
    found = Collection()
    if path is not None:
        _add_file(found, str(path))
    _add_command_line(found, overrides)
    translate(found)
    if not found.readable:
        return None, found.problems
    model, data, training = _validate(found)
    for conflict in cross_checks(model, data, training):
        if not found.wrong.intersection(conflict.keys):
            found.problems.append(found.place(conflict.keys) + conflict.sentence)
    notices = (*found.notices, *_inert_notices(found), *_value_notices(found, training))
    unknown = frozenset(found.wrong)
    run = RunConfig(model, data, training, _sources(found, training), notices, unknown)
    return run, found.problems


def load_command_line(arguments: Sequence[str]) -> RunConfig:
    """The configuration of `CONFIG --key value …`, or of `--key value …` alone.

    Raises:
        ConfigError: as `load_run_config`.
    """
    return load_run_config(*split_command_line(arguments))


def split_command_line(arguments: Sequence[str]) -> tuple[str | None, Sequence[str]]:
    """The file, if the first word is one, and the rest."""
    if arguments and not arguments[0].startswith("--"):
        return arguments[0], arguments[1:]
    return None, arguments


def _add_file(found: Collection, text: str) -> None:
    try:
        path = Path(expanded(text))
    except ValueError as error:
        found.problems.append(f"{COMMAND_LINE}: CONFIG: {error}")
        found.readable = False
        return
    content = read_config_file(path)
    found.problems += content.problems
    found.readable = not content.problems or bool(content.values)
    written = []
    for spelling, value in content.values.items():
        if spelling == "$schema":  # an editor's own key
            continue
        place = f"{path.name}, line {content.lines[spelling]}"
        key = _canonical(found, spelling, place)
        if key is not None:
            written.append((key, Given(file_value(key, value), path.name, place, spelling)))
    found.add(written)


def _add_command_line(found: Collection, overrides: Sequence[str]) -> None:
    line = read_command_line(overrides)
    found.problems += line.problems
    for spelling in line.repeated:
        found.notices.append(f"{spelling}: given twice on the command line; the last value counts")
    written = []
    for spelling, words in line.words.items():
        key = _canonical(found, spelling, COMMAND_LINE)
        if key is None:
            continue
        try:
            value = typed_value(key, words)
        except ValueError as error:
            found.problems.append(f"{COMMAND_LINE}: --{spelling}: {error}")
            found.wrong.add(key)
            continue
        written.append((key, Given(value, COMMAND_LINE, COMMAND_LINE, spelling)))
    found.add(written)


def _canonical(found: Collection, spelling: str, place: str) -> str | None:
    if spelling in keys.KNOWN:
        return spelling
    if spelling in SPELLINGS:
        key = SPELLINGS[spelling]
        found.notices.append(f"{spelling}: read as {key}, its present name")
        return key
    near = keys.nearest(spelling)
    # What is that much like a key was meant to be it.
    found.wrong.add(keys.nearest(spelling, least=0.8) or spelling)
    hint = f"did you mean {near}?" if near else "`llm-pretrain check --schema` lists the known ones"
    found.problems.append(f"{place}: {spelling}: there is no such key; {hint}")
    return None


def _validate(found: Collection) -> tuple[ModelArguments, DataArguments, TrainingArguments]:
    """The three groups, with defaults in place of wrong values."""

    def build(owner: type[Arguments]) -> Any:
        values = {
            key: given.value for key, given in found.given.items() if keys.OWNER.get(key) is owner
        }
        try:
            return owner(**values)
        except ValidationError as error:
            for key, message in _first_errors(error):
                if key not in found.wrong:
                    found.problems.append(found.place((key,)) + message)
                found.wrong.add(key)
            values = {key: value for key, value in values.items() if key not in found.wrong}
            if "output_dir" in found.wrong:
                values["output_dir"] = "."
            return owner(**values)

    return build(ModelArguments), build(DataArguments), build(TrainingArguments)


def _first_errors(error: ValidationError) -> Iterator[tuple[str, str]]:
    """(key, message) once for each key: a union's branches complain one by one."""
    seen: set[str] = set()
    for detail in error.errors(include_url=False):
        key = str(detail["loc"][0])
        if key not in seen:
            seen.add(key)
            yield key, _message(key, detail)


def _message(key: str, detail: ErrorDetails) -> str:
    if detail["type"] == "missing":
        return f"{key} must be given: {keys.field(key).description}"
    context = detail.get("ctx", {})
    if "error" in context:
        return str(context["error"])
    value = shown(detail["input"])
    if detail["type"] == "literal_error":
        return f"{value} is not available; it can be {context['expected']}"
    if detail["type"] == "tuple_type":
        return f"{value} is not a list"
    return f"{value} does not fit: {detail['msg'].removeprefix('Input ')}"


def _inert_notices(found: Collection) -> Iterator[str]:
    for key, given in found.given.items():
        if key in INERT:
            yield f"{given.spelling}: no effect here: {INERT[key]}"


def _value_notices(found: Collection, training: TrainingArguments) -> Iterator[str]:
    for key, options in INERT_OPTIONS.items():
        for name in getattr(training, key):
            if name in options:
                yield f"{key} {name}: no effect here: {options[name]}"
    if not training.sharding and training.sharding_parallel_degree > 1:
        yield (
            f"sharding_parallel_degree: {training.sharding_parallel_degree} without a sharding "
            "stage is plain data parallelism"
        )
    for key, reason in idle_values(training):
        if key in found.given:
            yield f"{key}: no effect: {reason}"
    if training.warmup > training.max_steps > 0:
        yield (
            f"learning_rate: {training.learning_rate:g} is not reached, since the warm-up of "
            f"{training.warmup:g} steps is longer than the run of {training.max_steps}"
        )
    for key, reason in training.derived.items():
        if key in found.given and key != "eval_steps":
            yield f"{key}: {getattr(training, key)} in place of the given value, from {reason}"
    if "offload" in training.sharding:
        yield "sharding: offload is not available yet; the optimizer's state stays on the device"


def _sources(found: Collection, training: TrainingArguments) -> MappingProxyType[str, str]:
    sources = {}
    for key in keys.OWNER:
        if key in found.wrong:
            sources[key] = "unknown"
        elif key in training.derived:
            sources[key] = f"from {training.derived[key]}"
        else:
            sources[key] = found.given[key].source if key in found.given else "default"
    return MappingProxyType(sources)
