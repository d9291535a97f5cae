"""`llm-pretrain check`: everything that can be known of a run before it starts.

Paddle is not imported, so the answer is there in about a second.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from llm_pretrain import machine
from llm_pretrain.checkpoint.directory import read_state
from llm_pretrain.config import (
    ConfigError,
    Degrees,
    RunConfig,
    check_layout,
    describe_batches,
    describe_config,
    describe_layout,
    describe_schedule,
    examine,
    json_schema,
    plan_batches,
    resolve_degrees,
    smallest_world_size,
    split_command_line,
)
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.data import (
    DataError,
    SampleCounts,
    Sources,
    data_problems,
    describe_data,
    describe_ids,
    lone_validation,
    open_sources,
)
from llm_pretrain.data.preprocess import PreprocessError
from llm_pretrain.data.sources import named_validation, of_named_set
from llm_pretrain.machine import terminal
from llm_pretrain.machine.language import translated
from llm_pretrain.machine.terminal import print_error, say, wrap
from llm_pretrain.models.maximal_update import MaximalUpdate
from llm_pretrain.planning.machines import machine_of_this_device
from llm_pretrain.training.folders import (
    Start,
    assert_same_model,
    describe_saves,
    describe_start,
    describe_weights,
    examine_folders,
    index_cache_problems,
    verify_checkpoints,
)
from llm_pretrain.training.origin import origin_of, repeated_decay
from llm_pretrain.training.preflight import (
    introduce,
    missing_weights,
    model_config_of,
    model_notices,
    model_problems,
    unread_weights,
)
from llm_pretrain.training.sample_order import rewritten_stages, samples_in_order, shortage

USAGE = """\
usage: llm-pretrain check [CONFIG] [--world_size N] [--gpu NAME|FILE.json]
                          [--verbose] [--verify] [--key value …]
       llm-pretrain check --schema

Prints what the configuration sets and where, the model, its weights, the data, the layout of N \
processes (by default the fewest that the degrees need), the batch and the schedule, and lists \
every problem. The exit status is 1 if there is one.

  --gpu NAME|FILE.json
      what the run takes on such devices, as `llm-pretrain plan --help` names them; by default on \
this machine's GPU. What doesn't fit is a problem
  --verbose
      every key, every file of the data, and the settings of the machine
  --verify
      read every checkpoint that the run could go on from, and compare it with its checksums
  --schema
      the JSON schema of configurations"""


def main(arguments: Sequence[str]) -> int:
    """Check a configuration; the exit status is 1 if it has a problem."""
    if "-h" in arguments or "--help" in arguments:
        print(terminal.fit(translated(USAGE)))
        return 0
    if "--schema" in arguments:
        print(json.dumps(json_schema(), indent=2, ensure_ascii=False))
        return 0
    report = Report(is_verbose="--verbose" in arguments, verifies="--verify" in arguments)
    own = ("--verbose", "--verify")
    try:
        words = [word for word in arguments if word not in own]
        world_size, words = _take_world_size(words)
        gpu, words = _take_value(words, "__gpu")
        machine_name = gpu or machine_of_this_device()
    except ConfigError as error:
        report.problems += error.problems
    else:
        _check(report, world_size, machine_name, words)
    return report.finish()


class Report:
    """What is printed, and the problems that decide the exit status."""

    def __init__(self, *, is_verbose: bool, verifies: bool) -> None:
        self.is_verbose = is_verbose
        self.verifies = verifies
        self.columns = terminal.width()
        self.problems: list[str] = []
        self.notices: list[str] = []

    def section(self, title: str, lines: Iterable[str]) -> None:
        """Print lines under a title; without lines, nothing."""
        self.values(title, map(translated, lines))

    def values(self, title: str, lines: Iterable[str]) -> None:
        """The same of lines that are to be printed as they are."""
        fitted = [part for line in lines for part in wrap(f"  {line}", self.columns)]
        if fitted:
            print("\n".join((translated(title), *fitted)), end="\n\n")

    def finish(self) -> int:
        """Print notices and problems; the exit status."""
        self.section("NOTICES", self.notices)
        sys.stdout.flush()
        for problem in self.problems:
            print_error(problem)
        if self.problems:
            say(f"{len(self.problems)} problem(s) found", sys.stderr)
            return 1
        say("No problem found.")
        return 0


def _take_world_size(arguments: Sequence[str]) -> tuple[int | None, list[str]]:
    """The value of --world_size, which is no key of a configuration, and the other words."""
    value, rest = _take_value(arguments, "__world_size")
    if value is None:
        return None, rest
    if not re.fullmatch("0*[1-9][0-9]{0,9}", value):
        raise ConfigError([f"command line: --world_size: {value!r} is no number of processes"])
    return int(value), rest


def _take_value(arguments: Sequence[str], option: str) -> tuple[str | None, list[str]]:
    """The value of an option (its dashes as `_`), None without it, and the other words."""
    rest: list[str] = []
    value: str | None = None
    words = iter(arguments)
    for word in words:
        name, equals, text = word.partition("=")
        if name.replace("-", "_") == option:
            value = text if equals else next(words, "")
        else:
            rest.append(word)
    return value, rest


def _check(
    report: Report, world_size: int | None, machine_name: str | None, arguments: Sequence[str]
) -> None:
    run, problems = examine(*split_command_line(arguments))
    report.problems += problems
    if run is None:
        return
    report.notices += run.notices
    # Lines of a section are indented by 2.
    values = describe_config(run, columns=report.columns - 2, everything=report.is_verbose)
    report.values("CONFIGURATION", values)
    if report.is_verbose:
        choices = (f"{name} = {value or '-'}  [{why}]" for name, value, why in machine.choices())
        report.section("MACHINE", choices)
    # What a wrong value would have decided can't be checked with the default in its place.
    start = _find_start(report, run) if run.knows_folders() else None
    degrees = _resolve_degrees(report, run, world_size) if run.knows_degrees() else None
    model = _find_model(report, run, degrees) if run.knows_model() else None
    weights = None
    if start is not None and model is not None:
        weights = _find_weights(report, run, start)
    sources = _open_data(report, run, degrees)
    lines = introduce(run, model=model, weights=weights, sources=sources, degrees=degrees)
    report.section("RUN", lines)
    if start is not None:
        _check_start(report, run, start, model, degrees, sources)
    if degrees is not None:
        report.section("LAYOUT", describe_layout(run, degrees))
    if model is not None:
        report.section("MODEL", _describe_model(model, run.data.max_seq_length))
    if degrees is not None and run.training.max_steps > 0:
        report.section("BATCH", describe_batches(run, degrees))
        scales = [] if model is None else MaximalUpdate(model, run.training).describe()
        report.section("LEARNING RATE", [describe_schedule(run), *scales])
        if model is not None and machine_name is not None:
            _check_plan(report, run, model, degrees, machine_name)
        if model is not None:
            saves, notices = describe_saves(run, model)
            report.section("SAVES", saves)
            report.notices += notices
        if sources is not None and run.knows_data():
            _check_data(report, run, degrees, model, sources)


def _check_plan(
    report: Report, run: RunConfig, model: ModelConfig, degrees: Degrees, machine_name: str
) -> None:
    """What the run takes on the machine; that it doesn't fit there is a problem."""
    # What only a plan needs is read only for one.
    from llm_pretrain.cli.plan import describe_own_plan

    if check_layout(run, model, degrees):
        return
    try:
        lines, problems = describe_own_plan(run, model, degrees, machine_name, report.columns - 2)
    except ConfigError as error:
        report.problems += error.problems
        return
    report.values("PLAN", lines)
    report.problems += problems


def _find_start(report: Report, run: RunConfig) -> Start | None:
    damaged: dict[Path, str] = {}
    if report.verifies:
        whole, damaged = verify_checkpoints(run)
        report.section("CHECKPOINTS", whole)
    start, problems = examine_folders(run, damaged)
    report.problems += [*damaged.values(), *problems]
    return start


def _check_start(
    report: Report,
    run: RunConfig,
    start: Start,
    model: ModelConfig | None,
    degrees: Degrees | None,
    sources: Sources | None,
) -> None:
    now = None
    if model is not None:
        try:
            if "max_seq_length" not in run.unknown:  # a model has room for its samples
                assert_same_model(start, model)
            if degrees is not None and sources is not None:
                now = origin_of(run, model, degrees.world_size, sources)
            if degrees is not None and run.training.do_train and start.checkpoints:
                plan, state = plan_batches(run, degrees), read_state(start.checkpoints[0])
                samples = samples_in_order(run, state, plan.train_samples)
                report.problems += shortage(run, state, degrees, samples)
                report.problems += rewritten_stages(run, state, now) if now else []
                report.notices += repeated_decay(run, start.checkpoints[0], state)
        except ConfigError as error:
            report.problems += error.problems
    if run.training.do_train:
        report.section("START", describe_start(start, now))


def _resolve_degrees(report: Report, run: RunConfig, world_size: int | None) -> Degrees | None:
    if world_size is None:
        world_size = smallest_world_size(run.training)
        report.notices.append(
            f"--world_size: not given; {world_size} is the fewest that the degrees need"
        )
    try:
        return resolve_degrees(run.training, world_size)
    except ConfigError as error:
        report.problems += error.problems
        return None


def _find_model(report: Report, run: RunConfig, degrees: Degrees | None) -> ModelConfig | None:
    try:
        model = model_config_of(run)
    except ConfigError as error:
        report.problems += error.problems
        return None
    except PreprocessError as error:
        report.problems.append(str(error))
        return None
    fitting = degrees if run.knows_layout() else None
    report.problems += model_problems(run, model, fitting)
    report.notices += model_notices(run, model, fitting)
    return model


def _find_weights(report: Report, run: RunConfig, start: Start) -> str | None:
    if not start.checkpoints:
        report.notices += unread_weights(run)
        if missing_weights(run):
            return None
    try:
        return describe_weights(run, start)
    except ConfigError as error:
        report.problems += [problem for problem in error.problems if problem not in report.problems]
        return None


def _open_data(report: Report, run: RunConfig, degrees: Degrees | None) -> Sources | None:
    if not (run.data.input_dir or run.data.data_stages) or "split" in run.unknown:
        return None
    stage_samples = () if degrees is None else plan_batches(run, degrees).stage_samples
    try:
        return open_sources(run.data, stage_samples)
    except DataError as error:
        report.problems.append(str(error))
        return None


def _describe_model(model: ModelConfig, length: int) -> list[str]:
    shape = (
        f"{model.num_hidden_layers} layers, hidden size {model.hidden_size}, "
        f"{model.num_attention_heads} heads, {model.num_key_value_heads} key–value heads, "
        f"feed-forward {model.intermediate_size}, vocabulary {model.vocab_size}"
    )
    return [shape, f"{model.flops_per_token(length):.4g} floating-point operations per token"]


def _check_data(
    report: Report, run: RunConfig, degrees: Degrees, model: ModelConfig | None, sources: Sources
) -> None:
    plan = plan_batches(run, degrees)
    counts = SampleCounts(
        plan.train_samples, plan.valid_samples, plan.test_samples, plan.stage_samples
    )
    if run.data.eval_data:
        counts = replace(counts, valid=0)
        _check_named_data(report, run, plan.valid_samples, model)
    lines = describe_data(
        sources, counts=counts, columns=report.columns - 2, everything=report.is_verbose
    )
    report.notices += [*sources.notices, *lone_validation(sources, counts.valid)]
    report.problems += [*data_problems(sources, counts), *index_cache_problems(sources)]
    try:
        if model is not None:
            lines += map(translated, describe_ids(sources, model.vocab_size))
    except DataError as error:
        report.problems.append(str(error))
    report.values("DATA", lines)


def _check_named_data(
    report: Report, run: RunConfig, samples: int, model: ModelConfig | None
) -> None:
    for name, data in named_validation(run.data).items() if samples else ():
        found = []
        try:
            sources = open_sources(data, argument=f"eval_data {name}")
            found += data_problems(sources, SampleCounts(valid=samples))
            if model is not None:
                list(describe_ids(sources, model.vocab_size))
        except DataError as error:
            found.append(str(error))
        report.problems += [of_named_set(name, problem) for problem in found]
