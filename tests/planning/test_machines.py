"""Machine files: complete, with a source for every number, and errors that name what is wrong."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from llm_pretrain.config import ConfigError
from llm_pretrain.monitor.peak_flops import peak_flops
from llm_pretrain.planning.machines import (
    FOLDER,
    NUMBERS,
    TABLES,
    load_machine,
    machine_of_device,
    names,
    read_machine,
    share_at,
    to_json,
)


def content(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def test_the_machines_are_there() -> None:
    wanted = "a100-40g a100-80g ascend-910b h100 h200 rtx4090 v100-32g"
    assert names() == wanted.split()


@pytest.mark.parametrize("name", names())
def test_every_number_has_a_source(name: str) -> None:
    machine = load_machine(name)
    for key in (*NUMBERS, *TABLES):
        assert len(machine.sources[key]) > 10, key
    assert machine.peaks["float16"] > machine.peaks["float32"]


@pytest.mark.parametrize("name", names())
def test_a_peak_stands_in_one_place(name: str) -> None:
    found = content(name)
    if "device" in found:
        assert "peaks" not in found
        assert load_machine(name).peak("float16") == peak_flops(found["device"], "float16")


def test_a_device_tells_its_machine() -> None:
    assert machine_of_device("NVIDIA A100-SXM4-80GB") == "a100-80g"
    assert machine_of_device("NVIDIA A100-SXM4-40GB") == "a100-40g"
    assert machine_of_device("NVIDIA H200") == "h200"
    assert machine_of_device("Some other device") is None


def test_an_unknown_machine_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match="no such machine; there are a100-40g, a100-80g, asc"):
        load_machine("a100")


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    mine = content("a100-80g")
    del mine["node_bandwidth"]
    mine["memory_bandwith"] = mine.pop("memory_bandwidth")
    path = tmp_path / "my.json"
    path.write_text(json.dumps(mine))
    with pytest.raises(ConfigError) as error:
        load_machine(str(path))
    told = "\n".join(error.value.problems)
    assert "node_bandwidth: missing: bytes/s that a device sends within its node" in told
    assert "memory_bandwith: no such key; did you mean memory_bandwidth?" in told


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("memory", "much", "'much' is no number"),
        ("memory", True, "True is no number"),
        ("memory", math.nan, "nan is no number"),
        ("memory", 0, "0 is too small"),
        ("memory", 1e30, "1e+30 is too large"),
        ("network_bandwidth", -1, "-1 is too small"),
        ("attention_forward", 1.5, "1.5 is too large"),
        ("devices_per_node", 0.5, "0.5 is no whole number"),
        ("devices_per_node", math.inf, "inf is no number"),
    ],
)
def test_a_wrong_number_is_named(key: str, value: Any, told: str) -> None:
    entry = {"value": value, "source": "hearsay"}
    with pytest.raises(ConfigError) as error:
        read_machine({**content("h100"), key: entry}, "mine", "mine.json")
    assert error.value.problems == (f"mine.json: {key}: {told}",)


def test_a_number_beyond_all_floats_is_none() -> None:
    entry = {"value": 10**400, "source": "hearsay"}
    with pytest.raises(ConfigError, match="no number"):
        read_machine({**content("h100"), "memory": entry}, "mine", "mine.json")


@pytest.mark.parametrize("rows", [[], [[1, 0.5], [1, 0.6]], [[1, 1.5]], [[1]], "0.5"])
def test_a_wrong_table_is_named(rows: Any) -> None:
    entry = {"value": rows, "source": "hearsay"}
    with pytest.raises(ConfigError, match=r"product_efficiency: a list of \[size, share\]"):
        read_machine({**content("h100"), "product_efficiency": entry}, "mine", "mine.json")


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (1e9, '{"value": …, "source": …} is expected'),
        ({"value": 1, "source": " "}, "its source is empty"),
        ({"value": 1, "source": None}, "its source is empty"),
    ],
)
def test_a_wrong_entry_is_named(value: Any, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_machine({**content("h100"), "memory": value}, "mine", "mine.json")
    assert error.value.problems == (f"mine.json: memory: {told}",)


@pytest.mark.parametrize("wrong", [{"device": 5}, {"peaks": {}}])
def test_a_machine_without_peaks_is_none(wrong: dict[str, Any]) -> None:
    others = {key: value for key, value in content("h100").items() if key != "device"}
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        read_machine({**others, **wrong}, "mine", "mine.json")


def test_a_dtype_that_a_device_has_not_is_said() -> None:
    with pytest.raises(ConfigError, match="v100-32g has no products in bfloat16, but in float16"):
        load_machine("v100-32g").peak("bfloat16")


def test_a_share_lies_on_a_line_over_logarithms() -> None:
    table = ((1e6, 0.2), (1e8, 0.8))
    assert share_at(table, 1.0) == 0.2
    assert share_at(table, 1e7) == pytest.approx(0.5)
    assert share_at(table, 1e12) == 0.8


def test_a_machine_survives_its_file() -> None:
    machine = load_machine("h200")
    again = read_machine(to_json(machine), "h200", "h200")
    assert dict(again.peaks) == dict(machine.peaks)
    assert all(getattr(again, key) == getattr(machine, key) for key in (*NUMBERS, *TABLES))
