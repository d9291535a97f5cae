"""`llm-pretrain check`: everything that can be known of a run before it starts.

Paddle is not imported, so the answer is there in about a second.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence

from llm_pretrain import machine
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
    layout_notices,
    plan_batches,
    resolve_degrees,
    smallest_world_size,
    split_command_line,
)
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.data import DataError, SampleCounts, describe_data
from llm_pretrain.preprocess.errors import PreprocessError
from llm_pretrain.training.folders import examine_folders, index_cache_problems
from llm_pretrain.training.model_choice import (
    depth_notices,
    missing_weights,
    model_config_of,
    tokenizer_notices,
    vocabulary_notices,
    vocabulary_problems,
)

USAGE = """\
usage: llm-pretrain check [CONFIG] [--world_size N] [--key value …]
       llm-pretrain check --schema

Prints the configuration with the source of every value, the layout of N processes (by default the
fewest that the degrees need), the model, the batch, the schedule and the data, and lists every
problem. The exit status is 1 if there is one. --schema prints the JSON schema of configurations."""


def main(arguments: Sequence[str]) -> int:
    """Check a configuration; the exit status is 1 if it has a problem."""
    if "-h" in arguments or "--help" in arguments:
        print(USAGE)
        return 0
    if "--schema" in arguments:
        print(json.dumps(json_schema(), indent=2, ensure_ascii=False))
        return 0
    report = Report()
    try:
        world_size, rest = _take_world_size(arguments)
    except ConfigError as error:
        report.problems += error.problems
    else:
        _check(report, world_size, rest)
    return report.finish()


class Report:
    """What is printed, and the problems that decide the exit status."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.notices: list[str] = []

    def section(self, title: str, lines: Sequence[str]) -> None:
        """Print lines under a title."""
        print(f"{title}\n" + "".join(f"  {line}\n" for line in lines))

    def finish(self) -> int:
        """Print notices and problems; the exit status."""
        if self.notices:
            self.section("NOTICES", self.notices)
        sys.stdout.flush()
        for problem in self.problems:
            print(f"error: {problem}", file=sys.stderr)
        if self.problems:
            print(f"{len(self.problems)} problem(s) found", file=sys.stderr)
            return 1
        print("No problem found.")
        return 0


def _take_world_size(arguments: Sequence[str]) -> tuple[int | None, list[str]]:
    """The value of --world_size, which is no key of a configuration, and the other words."""
    rest: list[str] = []
    value: str | None = None
    words = iter(arguments)
    for word in words:
        name, equals, text = word.partition("=")
        if name.replace("-", "_") == "__world_size":
            value = text if equals else next(words, "")
        else:
            rest.append(word)
    if value is None:
        return None, rest
    if not re.fullmatch("0*[1-9][0-9]{0,9}", value):
        raise ConfigError([f"command line: --world_size: {value!r} is no number of processes"])
    return int(value), rest


def _check(report: Report, world_size: int | None, arguments: Sequence[str]) -> None:
    run, problems = examine(*split_command_line(arguments))
    report.problems += problems
    if run is None:
        return
    report.notices += run.notices
    report.section("CONFIGURATION", describe_config(run))
    report.section(
        "MACHINE",
        [f"{name} = {value or '-'}  [{reason}]" for name, value, reason in machine.choices()],
    )
    _check_folders(report, run)
    degrees = _check_layout(report, run, world_size)
    model = _check_model(report, run, degrees)
    if degrees is not None and run.training.max_steps > 0:
        report.section("BATCH", describe_batches(run, degrees))
        report.section("LEARNING RATE", [describe_schedule(run)])
        if run.data.input_dir is not None:
            _check_data(report, run, degrees, model)


def _check_folders(report: Report, run: RunConfig) -> None:
    start, problems = examine_folders(run)
    report.problems += problems
    if run.training.do_train and start is not None:
        report.section("START", [str(start)])


def _check_layout(report: Report, run: RunConfig, world_size: int | None) -> Degrees | None:
    if world_size is None:
        world_size = smallest_world_size(run.training)
        report.notices.append(
            f"--world_size: not given; {world_size} is the fewest that the degrees need"
        )
    try:
        degrees = resolve_degrees(run.training, world_size)
    except ConfigError as error:
        report.problems += error.problems
        return None
    report.section("LAYOUT", describe_layout(run, degrees))
    return degrees


def _check_model(report: Report, run: RunConfig, degrees: Degrees | None) -> ModelConfig | None:
    name = run.model.model_name_or_path
    try:
        model = model_config_of(run)
    except ConfigError as error:
        report.problems += error.problems
        return None
    except PreprocessError as error:
        report.problems.append(str(error))
        return None
    report.section("MODEL", _describe_model(name, model, run.data.max_seq_length))
    report.notices += [*tokenizer_notices(run), *depth_notices(run)]
    problems = [*missing_weights(run), *vocabulary_problems(run, model)]
    report.problems += problems
    if not problems:
        report.notices += vocabulary_notices(run, model)
    if degrees is not None:
        report.problems += check_layout(run, model, degrees)
        report.notices += layout_notices(run, model, degrees)
    return model


def _describe_model(name: str, model: ModelConfig, length: int) -> list[str]:
    shape = (
        f"{model.num_hidden_layers} layers, hidden size {model.hidden_size}, "
        f"{model.num_attention_heads} heads, {model.num_key_value_heads} key–value heads, "
        f"feed-forward {model.intermediate_size}, vocabulary {model.vocab_size}"
    )
    return [
        f"{name}: {model.family}, {model.parameter_count():,} parameters",
        shape,
        f"{model.flops_per_token(length):.4g} floating-point operations per token",
    ]


def _check_data(
    report: Report, run: RunConfig, degrees: Degrees, model: ModelConfig | None
) -> None:
    plan = plan_batches(run, degrees)
    counts = SampleCounts(plan.train_samples, plan.valid_samples, plan.test_samples)
    vocab_size = None if model is None else model.vocab_size
    try:
        lines = describe_data(run.data, counts=counts, vocab_size=vocab_size)
        report.problems += index_cache_problems(run)
    except DataError as error:
        report.problems.append(str(error))
        return
    report.section("DATA", lines)
