"""`llm-pretrain plan`: the best layouts of a run on a machine, before one is held."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_pretrain.config import (
    ConfigError,
    Degrees,
    RunConfig,
    check_layout,
    examine,
    plan_batches,
    split_command_line,
)
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.data.preprocess import PreprocessError
from llm_pretrain.machine import terminal
from llm_pretrain.machine.language import translated
from llm_pretrain.machine.terminal import print_error, wrap
from llm_pretrain.planning.allocator import OutOfMemoryError
from llm_pretrain.planning.calibrate import calibrated
from llm_pretrain.planning.layouts import Layout, layout_of, own_layout, run_with, samples_a_step
from llm_pretrain.planning.machines import (
    MEASURED,
    Machine,
    load_machine,
    machine_of_this_device,
    names,
    read_machine,
    to_json,
)
from llm_pretrain.planning.picture import draw
from llm_pretrain.planning.plan import Plan, Planner
from llm_pretrain.planning.profile import total
from llm_pretrain.planning.program import ThisProgram
from llm_pretrain.planning.report import (
    as_json,
    details,
    few_digits,
    numbers,
    readable_time,
    table,
    why,
)
from llm_pretrain.planning.search import Found, nearest, search
from llm_pretrain.training.preflight import model_config_of

USAGE = f"""\
usage: llm-pretrain plan [CONFIG] --gpus N [--gpu NAME|FILE.json]
                         [--json] [--write FILE] [--svg FILE]
                         [--calibrate train_log.jsonl] [--key value …]

Predicts memory, speed and cost of every layout that the run could have on N devices, at the same \
number of samples a step, and prints the five fastest that fit, and why the configuration's own \
layout is among them or is not. It takes no device.

  --gpus N
      how many devices
  --gpu NAME|FILE.json
      {", ".join(names())}, {MEASURED} (this machine, measured now), or a file with a machine's \
numbers; by default this machine's GPU
  --json
      the plans as JSON
  --write FILE
      the configuration with the best layout, as JSON; with --calibrate the machine's file
  --svg FILE
      a picture of the plans
  --calibrate train_log.jsonl
      what a run of the configuration on N devices has logged: its speed becomes the machine's"""


def main(arguments: Sequence[str]) -> int:
    """Plan a run; the exit status is 1 for a problem, or where nothing fits."""
    if "-h" in arguments or "--help" in arguments:
        print(terminal.fit(translated(USAGE)))
        return 0
    try:
        return _plan(*_take_options(arguments))
    except ConfigError as error:
        for problem in error.problems:
            print_error(problem)
        return 1


@dataclass
class _Options:
    gpus: int = 0
    gpu: str = ""
    write: str = ""
    svg: str = ""
    calibrate: str = ""
    json: bool = False


def _take_options(arguments: Sequence[str]) -> tuple[_Options, list[str]]:
    """This command's own options, and the words of the configuration."""
    options, rest = _Options(), []
    words = iter(arguments)
    for word in words:
        name, equals, text = word.partition("=")
        if name == "--json":
            options.json = True
        elif name in ("--gpus", "--gpu", "--write", "--svg", "--calibrate"):
            value = text if equals else next(words, "")
            if not value or value.startswith("--"):
                raise ConfigError([f"command line: {name}: needs a value"])
            if name == "--gpus":
                options.gpus = _number(value)
            else:
                setattr(options, name[2:], value)
        else:
            rest.append(word)
    if not options.gpus:
        raise ConfigError(["command line: --gpus: needed: on how many devices?"])
    for name, path in (("--write", options.write), ("--svg", options.svg)):
        if path and not Path(path).parent.is_dir():
            raise ConfigError([f"command line: {name} {path}: there is no folder of that name"])
    return options, rest


def _number(value: str) -> int:
    if not re.fullmatch("0*[1-9][0-9]{0,6}", value):
        raise ConfigError([f"command line: --gpus: {value!r} is no number of devices"])
    return int(value)


def _plan(options: _Options, words: Sequence[str]) -> int:
    run, problems = examine(*split_command_line(words))
    if run is None or not (run.knows_model() and run.knows_layout()):
        raise ConfigError(problems)
    machine = find_machine(options.gpu, options.gpus)
    model = _model(run)
    if options.calibrate:
        return _calibrate(options, run, model, machine)
    samples = samples_a_step(run, options.gpus)
    program = ThisProgram(machine.kind)
    with _progress() as tell:
        found = search(
            run, model, machine, program, devices=options.gpus, samples=samples, tell=tell
        )
    own, own_problem = _own(run, model, machine, program, options.gpus, found)
    if options.json:
        print(json.dumps(_as_json(found, own, own_problem, machine, samples), indent=2))
    else:
        print("\n".join(_lines(run, model, machine, found, own, own_problem, options, samples)))
        _section("NOTICES", (f"`llm-pretrain check` says: {problem}" for problem in problems))
    if found.plans and options.write:
        _write(options.write, configuration(run, found.plans[0].layout))
    if found.plans and options.svg:
        _save(options.svg, draw(found.plans, machine))
    return 0 if found.plans else 1


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """A line on a terminal that says how far the search is, and is gone at its end."""
    from rich.console import Console
    from rich.markup import escape

    with Console(stderr=True).status(translated("counting the layouts")) as status:
        yield lambda text: status.update(escape(translated(text)))


def find_machine(name: str, devices: int) -> Machine:
    """The machine of that name, or with this machine's GPU.

    Args:
        devices: of the run; as many processes share this machine's processors.

    Raises:
        ConfigError: there is none.
    """
    if name.lower() == MEASURED:
        return _measured(min(devices, os.cpu_count() or 1))
    known = name or machine_of_this_device()
    if known is None:
        choices = ", ".join((*names(), MEASURED))
        raise ConfigError(
            [f"--gpu: needed, since no GPU is known here; there are {choices}, or name a JSON file"]
        )
    return load_machine(known)


def _measured(processes: int) -> Machine:
    """This machine, by a process of its own: measuring needs Paddle, and a plan needs it away."""
    command = [sys.executable, "-m", "llm_pretrain.planning.measure", str(processes)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise ConfigError([f"--gpu {MEASURED}: this machine could not be measured"])
    return read_machine(json.loads(done.stdout.splitlines()[-1]), MEASURED, MEASURED)


def describe_own_plan(
    run: RunConfig, model: ModelConfig, degrees: Degrees, machine_name: str, columns: int
) -> tuple[list[str], list[str]]:
    """What a run takes on a machine, in the reader's language, in lines whose bars fit `columns`;
    and why it can't be had.

    Raises:
        ConfigError: there is no such machine.
    """
    machine = find_machine(machine_name, degrees.world_size)
    program = ThisProgram(machine.kind)
    planner = Planner(run, model, machine, program)
    plan = _replayed(planner, planner.plan(layout_of(run, degrees)))
    speed = (
        f"on {degrees.world_size} × {machine.name}: "
        f"{plan.tokens_per_second_per_device:,.0f} tokens/s/device, MFU {plan.mfu:.1%}, "
        f"{readable_time(plan.run_seconds)}, {few_digits(plan.device_hours)} device-hours"
    )
    lines = [translated(speed), *details(plan, machine, columns)]
    if total(plan.memory) <= machine.memory:
        return lines, []
    samples = plan_batches(run, degrees).samples_per_step
    other, considered = nearest(run, model, machine, program, plan.layout, samples=samples)
    return lines, [f"{why(plan, (), machine)}; {_what_fits(plan.layout, other, considered)}"]


def _what_fits(own: Layout, other: Plan | None, considered: int) -> str:
    """What to change so that it fits."""
    if other is None:
        return f"none of {considered:,} layouts of so many devices does: take more of them"
    mine = own.keys()
    changes = {key: value for key, value in other.layout.keys().items() if value != mine[key]}
    values = ", ".join(f"{key} {json.dumps(value)}" for key, value in changes.items())
    return f"the nearest that does has {values}"


def _model(run: RunConfig) -> ModelConfig:
    try:
        return model_config_of(run)
    except PreprocessError as error:
        raise ConfigError([str(error)]) from None


def _own(
    run: RunConfig,
    model: ModelConfig,
    machine: Machine,
    program: ThisProgram,
    devices: int,
    found: Found,
) -> tuple[Plan | None, str]:
    """The plan of the configuration's own layout, or why it has none."""
    try:
        layout, _ = own_layout(run, devices)
    except ConfigError as error:
        return None, "; ".join(error.problems)
    problems = check_layout(run, model, layout.degrees)
    if problems:
        return None, "; ".join(problems)
    for plan in found.plans:
        if plan.layout == layout:
            return plan, ""
    planner = Planner(run, model, machine, program)
    return _replayed(planner, planner.plan(layout)), ""


def _replayed(planner: Planner, plan: Plan) -> Plan:
    """With what its allocator reserves; as it is, where that has no room on the device."""
    if total(plan.memory) > planner.machine.memory:
        return plan
    try:
        return planner.replayed(plan)
    except OutOfMemoryError:
        return plan


def _lines(
    run: RunConfig,
    model: ModelConfig,
    machine: Machine,
    found: Found,
    own: Plan | None,
    own_problem: str,
    options: _Options,
    samples: int,
) -> Iterable[str]:
    columns = terminal.width()

    def fitted(lines: Iterable[str], indent: int = 2) -> Iterable[str]:
        for line in lines:
            yield from wrap(f"{'':{indent}}{line}", columns)

    def said(*lines: str, indent: int = 2) -> Iterable[str]:
        return fitted(map(translated, lines), indent)

    yield translated("RUN")
    yield from said(
        f"{run.model.model_name_or_path}: {model.parameter_count():,} parameters, "
        f"{samples:,} samples of {run.data.max_seq_length:,} tokens a step, "
        f"{run.training.max_steps:,} steps",
        f"{options.gpus} × {machine.name}: {machine.description}",
    )
    yield ""
    if not found.considered:
        yield translated(f"NO LAYOUT of {options.gpus} devices is legal")
        yield from said(
            f"none splits {samples:,} samples a step, and the model's heads and layers, over "
            f"{options.gpus} devices; try --gpus with other numbers, or another "
            "gradient_accumulation_steps"
            + (": every batch of batch_ramp is split, too" * bool(run.training.batch_ramp))
        )
    elif not found.plans:
        yield translated(f"NONE of {found.considered:,} layouts FITS")
        if found.smallest is not None:
            yield from said("the one that needs the least memory:")
            yield from said(found.smallest.layout.describe(), indent=4)
            yield from fitted(details(found.smallest, machine, columns - 4), 4)
    else:
        yield translated(f"THE BEST of {found.considered:,} layouts")
        yield from fitted(table(found.plans))
    for number, plan in enumerate(found.plans, 1):
        yield ""
        yield from said(f"{number}  {plan.layout.describe()}", indent=0)
        yield from fitted(details(plan, machine, columns - 2))
    yield ""
    yield translated("YOUR LAYOUT")
    if own is None:
        yield from said(f"is none on {options.gpus} devices: {own_problem}")
    else:
        yield from said(why(own, found.plans, machine))
        if own.layout not in [plan.layout for plan in found.plans]:
            yield from fitted(details(own, machine, columns - 2))
    yield ""
    yield translated("NUMBERS OF THE MACHINE, and where each is from")
    yield from said(*numbers(machine))
    yield ""


def _as_json(
    found: Found, own: Plan | None, own_problem: str, machine: Machine, samples: int
) -> dict[str, Any]:
    return {
        "machine": machine.name,
        "machine_numbers": to_json(machine),
        "samples_per_step": samples,
        "layouts": found.considered,
        "plans": [as_json(plan) for plan in found.plans],
        "own": as_json(own) if own is not None else None,
        "why": why(own, found.plans, machine) if own is not None else own_problem,
    }


def _calibrate(options: _Options, run: RunConfig, model: ModelConfig, machine: Machine) -> int:
    layout, _ = own_layout(run, options.gpus)
    found = calibrated(run, model, machine, ThisProgram(machine.kind), layout, options.calibrate)
    if options.json:
        print(json.dumps(found.as_json(), indent=2))
    else:
        for line in found.lines():
            print(terminal.fit(translated(line)))
    if options.write:
        _write(options.write, to_json(found.machine))
    return 0


def configuration(run: RunConfig, layout: Layout) -> dict[str, Any]:
    """The keys of a file that asks for the run in that layout: what its author gave, and those."""
    given = {
        key: value
        for key, value in run.values().items()
        if run.sources[key] != "default" and not run.sources[key].startswith("from ")
    }
    ours = {**given, **layout.keys()}
    # What is a default in any run needs no line, unless it takes the place of another.
    defaults = run_with(run, layout).training.__class__.model_fields
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in ours.items()
        if key in given or key not in defaults or value != defaults[key].default
    }


def _write(path: str, content: dict[str, Any]) -> None:
    _save(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _save(path: str, text: str) -> None:
    Path(path).write_text(text, encoding="utf-8")
    terminal.say(f"wrote {path}", sys.stderr)


def _section(title: str, lines: Iterable[str]) -> None:
    fitted = [part for line in lines for part in wrap(f"  {translated(line)}", terminal.width())]
    if fitted:
        print("\n".join((translated(title), *fitted)), end="\n\n")
