"""The plan of a run that has been started: `python -m llm_pretrain.cli.own_plan RUN.json`.

Prints one line of JSON, as `plan --json` describes a layout, or null where the run's device is none
of the machines that plans know. A training starts it, to say beside what it has measured what was
to be expected.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from llm_pretrain.config import load_run_config, resolve_degrees
from llm_pretrain.planning.layouts import layout_of
from llm_pretrain.planning.machines import load_machine, machine_of_device
from llm_pretrain.planning.plan import Planner
from llm_pretrain.planning.program import ThisProgram
from llm_pretrain.planning.report import as_json
from llm_pretrain.training.preflight import model_config_of


def main(record_path: str) -> None:
    record = json.loads(Path(record_path).read_text(encoding="utf-8"))
    name = machine_of_device(record["machine"]["device"])
    if name is None:
        print("null")
        return
    entries = record["configuration"].items()
    given = {key: entry["value"] for key, entry in entries if entry["source"] != "default"}
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        json.dump(given, file)
        file.flush()
        run = load_run_config(file.name)
    degrees = resolve_degrees(run.training, record["starts"][-1]["processes"])
    machine = load_machine(name)
    planner = Planner(run, model_config_of(run), machine, ThisProgram(machine.kind))
    print(json.dumps(as_json(planner.plan(layout_of(run, degrees)))))


if __name__ == "__main__":
    main(sys.argv[1])
