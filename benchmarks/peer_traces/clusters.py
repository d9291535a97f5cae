"""The machines that the published rows were measured on, and the one number that is fitted of each.

A cluster is a program's site: its driver, libraries and kernels are that program's. What is fitted
is `sustained`, the share of their rate at which products and attention run on and on; all else is
the machine's file.
"""

from __future__ import annotations

import csv
import json
import shlex
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llm_pretrain.planning.machines import Machine, load_machine
from peer_traces.peer_run import PeerRun, read_run
from peer_traces.prediction import predict

FOLDER = Path(__file__).resolve().parent.parent
CLUSTERS = FOLDER / "planning_clusters.json"
PUBLISHED = FOLDER / "planning_published.csv"

ATTENTION = {"llm_foundry": 0.5}
"""Speed of a program's attention over FlashAttention-2's, of which the machines' files tell:
llm-foundry's tables are of the first FlashAttention and its Triton version, and the second is about
twice as fast (arXiv:2307.08691, abstract)."""


@dataclass(frozen=True)
class Row:
    """A published measurement, and the arguments that describe its run."""

    table: str
    program: str
    gpu: str
    gpus: int
    name: str
    arguments: str
    tokens_per_second_per_device: float
    reserved_mib: float | None
    physical_gib: float | None
    sweep: str
    source: str

    def run(self) -> PeerRun:
        """The row's run."""
        words = shlex.split(self.arguments)
        if words[0].endswith(".json"):
            words[0] = str(FOLDER.parent / words[0])
        return read_run([*words, "--do_train", "--max_steps", "10"], self.gpus)


def published() -> list[Row]:
    """All rows of the table."""

    def number(text: str) -> float | None:
        return float(text) if text else None

    with PUBLISHED.open(encoding="utf-8") as file:
        return [
            Row(
                table=each["table"],
                program=each["program"],
                gpu=each["gpu"],
                gpus=int(each["gpus"]),
                name=each["name"],
                arguments=each["arguments"],
                tokens_per_second_per_device=float(each["tokens_per_second_per_device"]),
                reserved_mib=number(each["reserved_mib"]),
                physical_gib=number(each["physical_gib"]),
                sweep=each["sweep"],
                source=each["source"],
            )
            for each in csv.DictReader(file)
        ]


def machine_of(program: str, gpu: str) -> Machine:
    """A machine as a program's rows were measured on it; as its file has it where none were."""
    machine = load_machine(gpu)
    share = ATTENTION.get(program, 1.0)
    machine = replace(
        machine,
        attention_forward=share * machine.attention_forward,
        attention_backward=share * machine.attention_backward,
    )
    fitted = _fitted().get(f"{program} {gpu}")
    return machine if fitted is None else machine.refitted(fitted["sustained"], fitted["how"])


def _fitted() -> dict[str, Any]:
    return json.loads(CLUSTERS.read_text(encoding="utf-8"))


FITTED = {
    "paddlenlp a100-80g": ("paddlenlp", "facebook/llama-7b"),
    "megatron a100-80g": ("megatron", ""),
    "llm_foundry a100-80g": ("llm_foundry", ""),
    "llm_foundry a100-40g": ("llm_foundry", ""),
    "llm_foundry h100": ("llm_foundry", ""),
}
"""Of each cluster the table and the name of the row that fits it; without a name, all its rows."""


def fit_clusters() -> None:
    """Find each cluster's number and write them all."""
    found = _fitted()
    for cluster, (table, name) in FITTED.items():
        program, gpu = cluster.split()
        rows = [
            row
            for row in published()
            if row.table == table and row.gpu == gpu and name in ("", row.name)
        ]
        found[cluster] = {
            "sustained": round(_fit(program, gpu, rows), 4),
            "how": f"on {name}" if name else f"the median error of its {len(rows)} rows is zero",
        }
    CLUSTERS.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def _fit(program: str, gpu: str, rows: Sequence[Row]) -> float:
    """The `sustained` of which the median row is right: what each row asks for, thrice."""
    machine = machine_of(program, gpu)
    runs = [(row.run(), row.tokens_per_second_per_device) for row in rows]
    for _ in range(3):
        asked = []
        for run, speed in runs:
            prediction = predict(program, run, machine, with_memory=False)
            ratio = prediction.tokens_per_second_per_device / speed
            seconds = prediction.seconds
            scaled = seconds.get("products", 0.0) + seconds.get("attention", 0.0)
            # What these may take for the step to take as long as it did, over what they take.
            asked.append(1 + (ratio - 1) * prediction.step_seconds / scaled)
        machine = machine.refitted(machine.sustained / statistics.median(asked), "being fitted")
    return machine.sustained
