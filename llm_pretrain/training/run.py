"""From a command line to a trained model."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import paddle

from llm_pretrain import machine
from llm_pretrain.checkpoint import hugging_face
from llm_pretrain.config import (
    ConfigError,
    Degrees,
    RunConfig,
    check_layout,
    describe_batches,
    describe_config,
    describe_layout,
    describe_schedule,
    layout_notices,
    load_run_config,
    plan_batches,
    resolve_degrees,
    split_command_line,
)
from llm_pretrain.config.model_config import ModelConfig
from llm_pretrain.data import DataError, Datasets, SampleCounts, build_datasets
from llm_pretrain.models.loss import language_model_loss
from llm_pretrain.ops.precision import set_compute_dtype
from llm_pretrain.parallel import collectives, topology
from llm_pretrain.parallel.pieces import initialize
from llm_pretrain.parallel.pipeline import Pipeline
from llm_pretrain.parallel.recompute import apply_recompute
from llm_pretrain.parallel.topology import Topology
from llm_pretrain.preprocess.errors import PreprocessError
from llm_pretrain.training.failure import reported_failures
from llm_pretrain.training.model_choice import model_config_of, tokenizer_directory
from llm_pretrain.training.optimizer import NonFiniteGradientError
from llm_pretrain.training.reports import Reports
from llm_pretrain.training.stage import Stage, build_stage
from llm_pretrain.training.trainer import Trainer

SIGNAL_STATUS = 128
"""Exit status of a run that a signal ended: this plus the signal's number, as shells have it."""


def run(arguments: Sequence[str]) -> int:
    """Train as a config file and a command line say; the exit status."""
    try:
        config = load_run_config(*split_command_line(arguments))
        degrees = resolve_degrees(config.training, topology.world_size())
        model_config = model_config_of(config)
        problems = check_layout(config, model_config, degrees)
        if problems:
            raise ConfigError(problems)
        _select_device(config)
        layout = topology.initialize(degrees, order=config.training.hybrid_parallel_topo_order)
        with reported_failures():
            return train(config, model_config, layout)
    except ConfigError as error:
        return _refuse(error.problems)
    except (DataError, PreprocessError, NonFiniteGradientError) as error:
        return _refuse([str(error)])


def _refuse(problems: Sequence[str]) -> int:
    """Say what is wrong, on the rank whose output the launcher shows."""
    if os.environ.get("PADDLE_TRAINER_ID", "0") == "0":
        for problem in problems:
            print(f"error: {problem}", file=sys.stderr, flush=True)
    return 1


def train(config: RunConfig, model_config: ModelConfig, layout: Topology) -> int:
    """Train in a topology that is formed already; the exit status."""
    training = config.training
    reports = Reports(config, model_config, layout)
    try:
        _say_what_is_run(reports, config, model_config, layout.degrees)
        datasets = _datasets(config, model_config, layout)
        for notice in datasets.notices:
            reports.message(notice)
        stage = _build_model(config, model_config, layout)
        pipeline = Pipeline(
            stage,
            language_model_loss,
            layout,
            hidden_size=model_config.hidden_size,
            activation_dtype=_weight_dtype(config),
        )
        trainer = Trainer(
            config,
            model_config,
            layout,
            pipeline,
            datasets,
            reports,
            checkpoint_extras=_tokenizer_files(config),
        )
        trainer.resume()
        # The ranks meet here after work that may take some of them much longer than others.
        collectives.barrier()
        if training.do_train:
            stopped_by = trainer.train()
            if stopped_by:
                return SIGNAL_STATUS + stopped_by
            trainer.save_model()
        elif training.do_eval:
            trainer.evaluate_once()
        if training.do_predict:
            trainer.predict()
    finally:
        reports.close()
    return 0


def _tokenizer_files(config: RunConfig) -> list[Path]:
    """What goes beside saved weights so that they can be used with their tokenizer."""
    directory = tokenizer_directory(config)
    names = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")
    return [directory / name for name in names if (directory / name).is_file()]


def _select_device(config: RunConfig) -> None:
    wanted = config.training.device
    has_gpu = paddle.device.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0
    if not has_gpu or (wanted or "gpu").startswith("cpu"):
        paddle.device.set_device("cpu")
    elif wanted and ":" in wanted:
        paddle.device.set_device(wanted)
    else:
        # The launcher names each process's GPU in this variable, in lower case.
        index = os.environ.get("FLAGS_selected_gpus", "0")  # noqa: SIM112
        paddle.device.set_device(f"gpu:{index}")


def _say_what_is_run(
    reports: Reports, config: RunConfig, model_config: ModelConfig, degrees: Degrees
) -> None:
    training = config.training
    if training.print_config:
        lines = describe_config(config)
        lines += [f"{name} = {value}  [{reason}]" for name, value, reason in machine.choices()]
        lines += [*describe_layout(config, degrees), describe_schedule(config)]
        reports.message("\n".join(lines))
    for notice in (*config.notices, *layout_notices(config, model_config, degrees)):
        reports.message(notice)
    if (training.device or "").startswith("gpu") and paddle.device.get_device() == "cpu":
        reports.message("device: gpu has no effect: this machine has no GPU that Paddle can use.")
    if not _tokenizer_files(config):
        reports.message(
            f"No tokenizer in {tokenizer_directory(config)}: training works on token ids alone."
        )
    for line in describe_batches(config, degrees):
        reports.message(line)


def _datasets(config: RunConfig, model_config: ModelConfig, layout: Topology) -> Datasets:
    plan = plan_batches(config, layout.degrees)
    is_builder = (
        layout.rank == 0
        if config.data.share_folder
        else os.environ.get("PADDLE_RANK_IN_NODE", "0") == "0"
    )
    return build_datasets(
        config.data,
        SampleCounts(plan.train_samples, plan.valid_samples, plan.test_samples),
        seed=config.training.seed,
        builder=is_builder,
        vocab_size=model_config.vocab_size,
    )


def _weight_dtype(config: RunConfig) -> str:
    training = config.training
    return training.compute_dtype if training.fp16_opt_level == "O2" else "float32"


def _build_model(config: RunConfig, model_config: ModelConfig, layout: Topology) -> Stage:
    training = config.training
    set_compute_dtype(training.compute_dtype)
    paddle.set_default_dtype(_weight_dtype(config))
    try:
        stage = build_stage(model_config, layout)
    finally:
        paddle.set_default_dtype("float32")
    if config.model.continue_training:
        hugging_face.load_weights(stage, model_config, Path(config.model.model_name_or_path))
    else:
        initialize(stage, training.seed)
    if training.recompute:
        apply_recompute(
            stage.blocks,
            training.recompute_granularity,
            except_layers=training.no_recompute_layers or (),
        )
    return stage
