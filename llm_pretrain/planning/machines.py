"""What a device, its node and its network can do: files in `machines/`, or a user's own.

A file is JSON. Every number in it stands as {"value": …, "source": …}, since a prediction is worth
what its numbers are. Peaks of devices that `monitor/peak_flops.py` knows stand there and nowhere
else: the file names the device.
"""

from __future__ import annotations

import difflib
import json
import math
import subprocess
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llm_pretrain.config import ConfigError
from llm_pretrain.monitor.peak_flops import peak_flops

FOLDER = Path(__file__).with_name("machines")
MEASURED = "cpu"
"""The machine that has no file: this one, measured on the spot."""

KINDS = ("gpu", "cpu")
"""Of devices; a file that says nothing has the first."""
DTYPES = ("bfloat16", "float16", "float32")
Table = tuple[tuple[float, float], ...]
"""(size, share) in the order of the sizes: what share of a rate an operator of a size reaches."""

NUMBERS: dict[str, str] = {
    "sustained": "share of the rates of products and attention that long training keeps: the one "
    "number that is fitted",
    "processors": "that work on a product at the same time, each on one tile of its result; 1: "
    "products are not cut into tiles",
    "tile_seconds": "s that the largest tile takes beside its arithmetic",
    "kernel_seconds": "s that an operator takes at least",
    "attention_forward": "share of the peak that attention reaches forward",
    "attention_backward": "share of the peak that attention reaches backward",
    "memory": "bytes of a device",
    "memory_bandwidth": "bytes/s",
    "context": "bytes that the driver and the libraries take outside of the allocator",
    "group_buffers": "bytes that a group of ranks takes outside of the allocator",
    "host_bandwidth": "bytes/s between a device and its host",
    "devices_per_node": "devices that `node_bandwidth` joins",
    "node_bandwidth": "bytes/s that a device sends within its node (bus bandwidth)",
    "node_step_seconds": "s of one step of a collective within a node",
    "network_bandwidth": "bytes/s that a device sends to another node (bus bandwidth)",
    "network_step_seconds": "s of one step of a collective between nodes",
}
"""Keys whose value is a number, and what each is."""
TABLES: dict[str, str] = {
    "product_efficiency": "share of the peak by the floating-point operations of a product, "
    "besides what its tiles cost",
    "memory_efficiency": "share of `memory_bandwidth` by the bytes of an operator",
}
"""Keys whose value is a list of [size, share]."""


@dataclass(frozen=True)
class Machine:
    """One kind of device in its nodes; each field as `NUMBERS` and `TABLES` say.

    `kind`: "gpu", or "cpu" where a machine's processors train.
    `peaks`: FLOP/s by dtype; a dtype that the device has not isn't there.
    `sources`: of every number, by its key.
    """

    name: str
    description: str
    kind: str
    peaks: Mapping[str, float]
    product_efficiency: Table
    processors: int
    tile_seconds: float
    sustained: float
    kernel_seconds: float
    attention_forward: float
    attention_backward: float
    memory: float
    memory_bandwidth: float
    memory_efficiency: Table
    context: float
    group_buffers: float
    host_bandwidth: float
    devices_per_node: int
    node_bandwidth: float
    node_step_seconds: float
    network_bandwidth: float
    network_step_seconds: float
    sources: Mapping[str, str]

    def peak(self, dtype: str) -> float:
        """FLOP/s.

        Raises:
            ConfigError: the device has no such products.
        """
        if dtype not in self.peaks:
            raise ConfigError(
                [
                    f"{self.name} has no products in {dtype}, but in {', '.join(self.peaks)}; "
                    "choose by bf16, fp16 and fp16_opt_level"
                ]
            )
        return self.peaks[dtype]

    def product_rate(self, flops: float, dtype: str) -> float:
        """FLOP/s at which a product of `flops` operations runs, its operands being at hand and all
        processors at work."""
        return self.peak(dtype) * share_at(self.product_efficiency, flops) * self.sustained

    def memory_rate(self, size: float) -> float:
        """Bytes/s at which an operator of `size` bytes reads and writes."""
        return self.memory_bandwidth * share_at(self.memory_efficiency, size)

    def refitted(self, sustained: float, source: str) -> Machine:
        """The same machine with another `sustained`."""
        return replace(self, sustained=sustained, sources={**self.sources, "sustained": source})


def share_at(table: Table, size: float) -> float:
    """The share between those of the sizes around `size`, in a line over the sizes' logarithms."""
    above = bisect_left(table, (size,))
    if above == 0:
        return table[0][1]
    if above == len(table):
        return table[-1][1]
    (low, first), (high, second) = table[above - 1], table[above]
    place = math.log(size / low) / math.log(high / low)
    return first + (second - first) * place


def names() -> list[str]:
    """The machines that `load_machine` knows."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def load_machine(name: str) -> Machine:
    """The machine of that name, or of the file at that path.

    Raises:
        ConfigError: there is none, or the file is wrong.
    """
    path = Path(name) if name.endswith(".json") else FOLDER / f"{name.lower()}.json"
    if not name.endswith(".json") and name.lower() not in names():
        known = [*names(), MEASURED]
        raise ConfigError(
            [f"--gpu {name}: no such machine; there are {', '.join(known)}, or name a JSON file"]
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError([f"--gpu {name}: {error.strerror}"]) from None
    except ValueError as error:
        raise ConfigError([f"--gpu {name}: no JSON: {error}"]) from None
    return read_machine(content, path.stem, str(path) if name.endswith(".json") else name)


def machine_of_device(device_name: str) -> str | None:
    """The name of the machine with this device, as the driver calls it; None where none has it."""
    words = set(_words(device_name))
    matches = [
        (len(_words(content["device"])), path.stem)
        for path in sorted(FOLDER.glob("*.json"))
        if (content := json.loads(path.read_text(encoding="utf-8"))).get("device")
        and set(_words(content["device"])) <= words
    ]
    return max(matches)[1] if matches else None


def machine_of_this_device() -> str | None:
    """The name of the machine with the first GPU here; None where there is none that is known."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    first = done.stdout.strip().partition("\n")[0]
    return machine_of_device(first) if done.returncode == 0 and first else None


def _words(name: str) -> list[str]:
    return name.upper().replace("-", " ").replace("_", " ").split()


def read_machine(content: Any, name: str, place: str) -> Machine:
    """The machine in a file's content.

    Raises:
        ConfigError: every key that is missing, unknown or wrong, each with `place`.
    """
    if not isinstance(content, dict):
        raise ConfigError([f"{place}: a machine is a JSON object of keys"])
    problems = [f"{place}: {problem}" for problem in _problems(content)]
    if problems:
        raise ConfigError(problems)
    if "device" in content:
        found = {dtype: peak_flops(content["device"], dtype) for dtype in DTYPES}
        peaks = {dtype: peak for dtype, peak in found.items() if peak is not None}
        if not peaks:
            known = f"{content['device']!r} is none of monitor/peak_flops.py; give peaks instead"
            raise ConfigError([f"{place}: device: {known}"])
        sources = {"peaks": "monitor/peak_flops.py"}
    else:
        peaks = {dtype: float(entry["value"]) for dtype, entry in content["peaks"].items()}
        sources = {f"peaks {dtype}": entry["source"] for dtype, entry in content["peaks"].items()}
    keys = (*NUMBERS, *TABLES)
    values: dict[str, Any] = {key: float(content[key]["value"]) for key in NUMBERS}
    for key in TABLES:
        rows = sorted(content[key]["value"])
        values[key] = tuple((float(size), float(share)) for size, share in rows)
    for key in _WHOLE:
        values[key] = int(values[key])
    return Machine(
        name=name,
        description=str(content.get("description", name)),
        kind=content.get("kind", KINDS[0]),
        peaks=peaks,
        sources={**sources, **{key: content[key]["source"] for key in keys}},
        **values,
    )


def _problems(content: Mapping[str, Any]) -> list[str]:
    known = {**NUMBERS, **TABLES}
    problems = [
        f"{key}: missing: {meaning}" for key, meaning in known.items() if key not in content
    ]
    if ("device" in content) == ("peaks" in content):
        problems.append(
            "device or peaks: give one of them: a device's name, as the driver has it, whose peaks "
            "are known, or the peaks in FLOP/s by dtype"
        )
    if content.get("kind", KINDS[0]) not in KINDS:
        problems.append(f"kind: {content['kind']!r:.40} is none of {', '.join(KINDS)}")
    for key in content:
        if key not in known and key not in ("description", "kind", "device", "peaks"):
            near = difflib.get_close_matches(key, known, n=1)
            problems.append(f"{key}: no such key" + (f"; did you mean {near[0]}?" if near else ""))
    entries = {key: content[key] for key in known if key in content}
    peaks = content.get("peaks", {})
    if "device" in content and not isinstance(content["device"], str):
        problems.append(f"device: {content['device']!r:.40} is no name of a device")
    if (
        not isinstance(peaks, dict)
        or not set(peaks) <= set(DTYPES)
        or ("peaks" in content and not peaks)
    ):
        problems.append(f"peaks: an object with some of {', '.join(DTYPES)}")
    else:
        entries |= {f"peaks {dtype}": entry for dtype, entry in peaks.items()}
    for key, entry in entries.items():
        if not isinstance(entry, dict) or set(entry) != {"value", "source"}:
            problems.append(f'{key}: {{"value": …, "source": …}} is expected')
        elif not isinstance(entry["source"], str) or not entry["source"].strip():
            problems.append(f"{key}: its source is empty")
        elif key in TABLES and not _is_table(entry["value"]):
            problems.append(
                f"{key}: a list of [size, share] is expected, of sizes that differ and shares of "
                "more than 0 and at most 1"
            )
        elif key not in TABLES and (wrong := _wrong_number(key, entry["value"])):
            problems.append(f"{key}: {entry['value']!r:.40} is {wrong}")
    return problems


_WHOLE = ("processors", "devices_per_node")
_FROM_ZERO = {
    "tile_seconds",
    "kernel_seconds",
    "context",
    "group_buffers",
    "node_step_seconds",
    "network_step_seconds",
}
_MOST = {"attention_forward": 1.0, "attention_backward": 1.0, "sustained": 2.0}
"""Shares. What is fitted may lie above 1 where the other shares of a file are low."""


def _wrong_number(key: str, value: Any) -> str:
    """What is wrong with it, in words."""
    if not _is_number(value):
        return "no number"
    if value < 0 or (value == 0 and key not in _FROM_ZERO):
        return "too small"
    if value > _MOST.get(key, 1e18):
        return "too large"
    if key in _WHOLE and value != int(value):
        return "no whole number"
    return ""


def _is_number(value: Any) -> bool:
    """Whether it is a finite number that a float can hold."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _is_table(rows: Any) -> bool:
    return (
        isinstance(rows, Sequence)
        and len(rows) > 0
        and all(isinstance(row, list) and len(row) == 2 for row in rows)
        and all(_is_number(value) and value > 0 for row in rows for value in row)
        and all(share <= 1.0 for _, share in rows)
        and len({size for size, _ in rows}) == len(rows)
    )


def to_json(machine: Machine) -> dict[str, Any]:
    """The content of a file that `read_machine` reads as this machine."""
    content: dict[str, Any] = {"description": machine.description, "kind": machine.kind}
    content["peaks"] = {
        dtype: {
            "value": peak,
            "source": machine.sources.get(f"peaks {dtype}", machine.sources.get("peaks", "")),
        }
        for dtype, peak in machine.peaks.items()
    }
    for key in (*NUMBERS, *TABLES):
        value = getattr(machine, key)
        if key in TABLES:
            value = [list(row) for row in value]
        content[key] = {"value": value, "source": machine.sources[key]}
    return content
