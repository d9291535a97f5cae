"""From a command line to a trained model."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from llm_pretrain import machine
from llm_pretrain.checkpoint.disks import is_first_of_node
from llm_pretrain.config import (
    ConfigError,
    Degrees,
    RunConfig,
    describe_batches,
    describe_config,
    describe_layout,
    describe_schedule,
    load_run_config,
    on_fewer,
    plan_batches,
    resolve_degrees,
    split_command_line,
)
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.data import (
    DataError,
    Datasets,
    SampleCounts,
    Sources,
    build_datasets,
    open_sources,
)
from llm_pretrain.data.preprocess.tokenizers import files_that_go_along
from llm_pretrain.machine import SIGNAL_STATUS, device, terminal
from llm_pretrain.machine.files import describe, is_fault, naming
from llm_pretrain.machine.language import translated
from llm_pretrain.machine.terminal import print_error
from llm_pretrain.models.maximal_update import MaximalUpdate
from llm_pretrain.monitor.alerts import Alerts
from llm_pretrain.ops.operator import set_compute_dtype
from llm_pretrain.parallel.comm import collectives, epochs
from llm_pretrain.parallel.comm.epochs import EpochOver
from llm_pretrain.parallel.comm.lost_peer import say_training, watched_peers
from llm_pretrain.parallel.comm.meeting import MeetingError
from llm_pretrain.parallel.comm.topology import Topology, initialize, use, world_size
from llm_pretrain.parallel.pipeline.executor import Pipeline
from llm_pretrain.training.agreement import (
    StopSignal,
    assert_same_run,
    choose_operators,
    operators_of,
    recorded_operators,
    timed_work,
)
from llm_pretrain.training.failure import USER_ERRORS, reported_failures
from llm_pretrain.training.folders import Start, describe_weights, examine_folders, locked_output
from llm_pretrain.training.preflight import (
    introduce,
    model_config_of,
    model_notices,
    model_problems,
    tokenizer_directory,
    unread_weights,
)
from llm_pretrain.training.reports import Reports, alerts_of
from llm_pretrain.training.resume import (
    agree_on_start,
    load_newest,
    samples_to_order,
    set_aside_later,
    shared_origin,
)
from llm_pretrain.training.shared_batches import build_once
from llm_pretrain.training.stage import prepare_stage
from llm_pretrain.training.trainer import Trainer


def run(arguments: Sequence[str]) -> int:
    """Train as a config file and a command line say; the exit status."""
    try:
        run = load_run_config(*split_command_line(arguments))
        run = on_fewer(run, epochs.whole() or world_size(), world_size())
        degrees = resolve_degrees(run.training, world_size())
        model = model_config_of(run)
        start, folder_problems = examine_folders(run)
        problems = [*model_problems(run, model, degrees), *folder_problems]
        if problems:
            raise ConfigError(problems)
        device.choose(run.training.device, is_alone=world_size() == 1)
        order, timeout = run.training.hybrid_parallel_topo_order, run.training.distributed_timeout
        topology = initialize(degrees, order=order, timeout_seconds=timeout)
        alerts = alerts_of(run)
        with (
            reported_failures(alerts),
            watched_peers(
                topology.rank,
                topology.world_size,
                timeout,
                Path(run.training.output_dir, "stacks"),
                # `llm-pretrain launch` replaces a rank that is killed.
                None if epochs.number() else alerts.by_program(),
            ),
            _own_output(run, topology, start),
        ):
            return train(run, model, topology, alerts)
    except MeetingError as error:
        if epochs.is_over(by_lost_connection=True):
            raise EpochOver from None
        # Whoever is there says it: the first of the node may be the one that is missing.
        print_error(str(error))
        return 1
    except USER_ERRORS as error:
        return _refuse(error.problems if isinstance(error, ConfigError) else [str(error)])
    except OSError as error:
        if not is_fault(error):
            raise
        print_error(describe(error))
        return 1


@contextmanager
def _own_output(run: RunConfig, topology: Topology, start: Start | None) -> Iterator[None]:
    """Keep other jobs out of `output_dir`, unless there is nothing to do in it.

    An error of writing that names no file gets the folder's name.
    """
    output_dir = run.training.output_dir
    is_written = start is None or not start.is_beyond_the_end
    with naming(output_dir), ExitStack() as stack:
        is_first = topology.rank == 0
        if is_written and is_first:
            stack.enter_context(locked_output(output_dir, is_first_of_job=True))
        # Nodes that share the folder find it locked by their own job then.
        collectives.barrier()
        if is_written and is_first_of_node() and not is_first:
            stack.enter_context(locked_output(output_dir, is_first_of_job=False))
        yield


def _refuse(problems: Sequence[str]) -> int:
    """Say what is wrong, on the rank of each node whose output the launcher shows."""
    if is_first_of_node():
        for problem in problems:
            print_error(problem)
    return 1


def train(
    run: RunConfig, model: ModelConfig, topology: Topology, alerts: Alerts | None = None
) -> int:
    """Train in a topology that is formed already; the exit status."""
    training = run.training
    topology = use(
        sequence_parallel=training.sequence_parallel,
        shared_samples=training.distributed_dataloader,
    )
    assert_same_run(run, model)
    start = agree_on_start(run, model, topology)
    if start.is_beyond_the_end:
        if is_first_of_node():
            for line in start.lines():
                print(terminal.shown(translated(line)), flush=True)
        return 0
    reports = Reports(run, model, topology, alerts)
    try:
        stopped_by = _train(run, model, topology, start, reports)
        reports.end(stopped_by)
    finally:
        reports.close()
    return SIGNAL_STATUS + stopped_by if stopped_by else 0


def _train(
    run: RunConfig, model: ModelConfig, topology: Topology, start: Start, reports: Reports
) -> int:
    """Train, evaluate and predict as the arguments say; the signal that ended it early, or 0."""
    training = run.training
    opened = _open_sources(run, topology)
    sources = opened if topology.rank == 0 else None
    _say_what_is_run(reports, run, model, topology.degrees, sources, start)
    datasets = _datasets(run, model, topology, opened, start)
    for notice in datasets.notices:
        reports.message(notice)
    for line in start.lines():
        reports.message(line)
    set_compute_dtype(training.compute_dtype)
    workload = timed_work(run, model, topology)
    recorded = recorded_operators(start, workload) if workload and start.checkpoints else None
    operators = choose_operators(run, reports.message, workload=workload, recorded=recorded)
    reports.operators(operators)
    stage = prepare_stage(run, model, topology, is_resumed=bool(start.checkpoints))
    pipeline = Pipeline(
        stage,
        topology,
        hidden_size=model.hidden_size,
        activation_dtype=training.weight_dtype,
    )
    with StopSignal(reports.signalled) as stop, ExitStack() as stack:
        trainer = Trainer(
            run,
            model,
            topology,
            pipeline,
            datasets,
            reports,
            origin=shared_origin(run, model, topology, sources) | operators_of(workload),
            checkpoint_extras=files_that_go_along(
                run.model.model_name_or_path, tokenizer_directory(run)
            ),
            stop=stop,
        )
        stack.callback(trainer.saves.close)
        if start.checkpoints:
            trainer.restore(load_newest(start, run, model, trainer.optimizer, reports))
        collectives.barrier()
        reports.start(trainer.progress, trainer.origin, operators, trainer.changes)
        say_training()
        if training.do_train:
            set_aside_later(run, start, trainer.progress.global_step, reports)
            if topology.rank == 0:
                epochs.began(trainer.progress.global_step)
            if not trainer.train():
                with reports.spending("saving"):
                    trainer.save_model()
        elif training.do_eval:
            trainer.evaluate()
        if training.do_predict and not stop.agree():
            trainer.predict()
        stopped_by = stop.agree()
        if training.do_train:
            trainer.summarize()
    return stopped_by


def _say_what_is_run(
    reports: Reports,
    run: RunConfig,
    model: ModelConfig,
    degrees: Degrees,
    sources: Sources | None,
    start: Start,
) -> None:
    training = run.training
    introduction = introduce(
        run,
        model=model,
        weights=describe_weights(run, start),
        sources=sources,
        degrees=degrees,
    )
    for line in introduction:
        reports.message(line)
    if training.print_config:
        lines = describe_config(run, columns=terminal.width())
        lines += [f"{name} = {value}  [{reason}]" for name, value, reason in machine.choices()]
        lines += [*describe_layout(run, degrees), describe_schedule(run)]
        reports.show("\n".join(lines))
    notices = [
        *run.notices,
        *model_notices(run, model, degrees),
        *(() if start.checkpoints else unread_weights(run)),
    ]
    for notice in filter(None, (*notices, device.remark(training.device))):
        reports.message(notice)
    for line in (*describe_batches(run, degrees), *MaximalUpdate(model, training).describe()):
        reports.message(line)


def _open_sources(run: RunConfig, topology: Topology) -> Sources | None:
    """The data, on the ranks that read it; None also where `_datasets` will raise."""
    if topology.rank not in topology.reading_ranks:
        return None
    try:
        return open_sources(run.data, plan_batches(run, topology.degrees).stage_samples)
    except DataError:
        return None


def _datasets(
    run: RunConfig,
    model: ModelConfig,
    topology: Topology,
    sources: Sources | None,
    start: Start,
) -> Datasets:
    plan = plan_batches(run, topology.degrees)
    train_samples = samples_to_order(run, start, topology, plan.train_samples)
    is_builder = _builds_index(run, topology)

    def build() -> Datasets:
        return build_datasets(
            run.data,
            SampleCounts(train_samples, plan.valid_samples, plan.test_samples, plan.stage_samples),
            seed=run.training.seed,
            builder=is_builder,
            vocab_size=model.vocab_size,
            blanks=model.blank_infilling,
            end_tokens=model.end_tokens,
            sources=sources,
        )

    datasets = build_once(build, topology.sample_group, is_builder=is_builder)
    return replace(datasets, samples_asked=train_samples)


def _builds_index(run: RunConfig, topology: Topology) -> bool:
    """Whether this process is the first that reads data: of all, or of its node."""
    rank_in_node = int(os.environ.get("PADDLE_RANK_IN_NODE", "0"))
    first = 0 if run.data.share_folder else topology.rank - rank_in_node
    return not any(first <= rank < topology.rank for rank in topology.reading_ranks)
