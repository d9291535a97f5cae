"""Reads keys of PaddleFormers' as what they mean here, or says why they mean nothing here."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from llm_pretrain.config import keys
from llm_pretrain.config.argument_types import shown
from llm_pretrain.config.foreign_keys import DEFAULTS, MARKS, MEANINGS, ONLY
from llm_pretrain.config.given import Collection, readings_of
from llm_pretrain.config.parallel_options import FLAGS, INERT_OPTIONS

_TEXT = (".json", ".jsonl", ".txt", ".parquet", ".csv", ".tsv")


def translate(found: Collection) -> None:
    """Put keys of this program in the place of those that mean the same."""
    marks = [given.spelling for given in found.given.values() if given.spelling in MARKS]
    for flag in FLAGS:
        if flag in found.given:
            _take_flag(found, flag)
    for key, (values, reason) in ONLY.items():
        if key in found.given:
            _accept(found, key, values, reason)
    for key, meanings in MEANINGS.items():
        if key in found.given:
            _take_meaning(found, key, meanings)
    if "train_dataset_path" in found.given:
        _take_paths(found)
    elif "train_dataset_prob" in found.given:
        found.notices.append("train_dataset_prob: no effect without train_dataset_path")
    if marks:
        _turn_recompute_on(found)
        _tell_defaults(found, marks[0])


def _is_among(value: Any, values: tuple[Any, ...]) -> bool:
    """Whether the value is one of them, written as in a file or on a command line."""
    texts = [reading.lower() for reading in readings_of(value) if isinstance(reading, str)]
    others = [reading for reading in readings_of(value) if not isinstance(reading, str)]
    return any(
        choice.lower() in texts if isinstance(choice, str) else choice in others
        for choice in values
    )


def _take_flag(found: Collection, flag: str) -> None:
    key, option = FLAGS[flag]
    given, place = found.given[flag], found.place([flag])
    if not _is_among(given.value, (True, False, None)):
        found.problems.append(f"{place}{shown(given.value)} is not a switch: write true or false")
        found.wrong.add(key)
        del found.given[flag]
        return
    del found.given[flag]
    if option in INERT_OPTIONS[key]:
        found.notices.append(f"{flag}: no effect here: {INERT_OPTIONS[key][option]}")
        return
    if not _is_among(given.value, (True,)):
        return
    found.notices.append(f"{flag}: read as the option {option} of {key}")
    before = found.given.get(key, replace(given, value=""))
    if isinstance(before.value, str):
        found.given[key] = replace(before, value=f"{before.value} {option}")
    elif isinstance(before.value, list):
        found.given[key] = replace(before, value=[*before.value, option])


def _accept(found: Collection, key: str, values: tuple[Any, ...], reason: str) -> None:
    if _is_among(found.given[key].value, values):
        found.notices.append(f"{key}: no effect here: {reason}")
    else:
        found.problems.append(
            f"{found.place([key])}{shown(found.given[key].value)} is not available: {reason}; "
            f"it can be {json.dumps(values[0])}"
        )
    del found.given[key]


def _take_meaning(found: Collection, key: str, meanings: dict[str, tuple[str, Any]]) -> None:
    given, place = found.given[key], found.place([key])
    del found.given[key]
    if given.value is None:
        return
    meaning = meanings.get(str(given.value).lower())
    if meaning is None:
        found.problems.append(
            f"{place}{shown(given.value)} is not available; it can be {' or '.join(meanings)}"
        )
        return
    own, value = meaning
    if own in found.given:
        found.notices.append(f"{key}: no effect: {own} is given")
        return
    found.given[own] = replace(given, value=value)
    found.notices.append(f"{key}: {given.value} is read as {own} {str(value).lower()}")


def _take_paths(found: Collection) -> None:
    key = "train_dataset_path"
    given, place = found.given[key], found.place([key])
    shares = found.given.get("train_dataset_prob")
    for name in (key, "train_dataset_prob"):
        found.given.pop(name, None)
    named = found.given.get("input_dir")
    if named is not None and named.value is not None:
        found.notices.append(f"{key}: no effect: input_dir is given")
        return
    try:
        value = _input_dir(str(given.value), None if shares is None else str(shares.value))
    except ValueError as error:
        found.problems.append(f"{place}{error}")
        found.wrong.add("input_dir")
        return
    found.given["input_dir"] = replace(given, value=value)
    found.notices.append(f"{key}: read as input_dir {value!r}")


def _turn_recompute_on(found: Collection) -> None:
    """PaddleFormers recomputes wherever it is said what."""
    given = found.given.get("recompute_granularity")
    if given is None or not given.value or "recompute" in found.given:
        return
    found.given["recompute"] = replace(given, value=True)
    found.notices.append("recompute_granularity: turns recompute on, as in PaddleFormers")


def _tell_defaults(found: Collection, mark: str) -> None:
    others = [
        f"{key} {_text(value)} (here {_text(keys.field(key).default)})"
        for key, value in DEFAULTS.items()
        if key not in found.given
    ]
    if others:
        found.notices.append(
            f"{mark} is a key of PaddleFormers', whose defaults of keys that are not given differ: "
            + ", ".join(others)
        )


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower()


def _input_dir(paths: str, shares: str | None) -> str:
    """The input_dir that means train_dataset_path and train_dataset_prob.

    Raises:
        ValueError: the files are text, or there are more or fewer shares than paths.
    """
    prefixes = [path.strip() for path in paths.split(",") if path.strip()]
    texts = [path for path in prefixes if path.endswith(_TEXT)]
    if texts:
        raise ValueError(
            f"{texts[0]} is text: make .bin and .idx files of it with `llm-pretrain preprocess`, "
            "and name them in input_dir"
        )
    if len(prefixes) == 1:
        return prefixes[0]
    weights = str(shares).split(",") if shares else ["1"] * len(prefixes)
    if len(weights) != len(prefixes):
        raise ValueError(
            f"{len(prefixes)} paths, but train_dataset_prob has {len(weights)} shares; give as many"
        )
    return " ".join(
        f"{weight.strip()} {path}" for weight, path in zip(weights, prefixes, strict=True)
    )
