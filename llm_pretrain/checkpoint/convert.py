"""`llm-pretrain convert`: weights from one program's format to another's."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from llm_pretrain.checkpoint.published_weights import PublishedWeights
from llm_pretrain.checkpoint.safetensors_file import NUMPY_TYPES
from llm_pretrain.checkpoint.weight_files import (
    HUGGING_FACE,
    PADDLENLP,
    WeightFormat,
    assert_undamaged,
)
from llm_pretrain.checkpoint.write_weights import write_weights
from llm_pretrain.config import ConfigError
from llm_pretrain.config.argument_types import path_argument
from llm_pretrain.data.preprocess.tokenizers import copy_along, files_that_go_along
from llm_pretrain.machine.files import naming
from llm_pretrain.machine.terminal import Command, say
from llm_pretrain.models.families import read_model_config

# A checkpoint's weights have Hugging Face's format; what else is in one, nobody else writes.
TARGETS: dict[str, WeightFormat] = {
    "huggingface": HUGGING_FACE,
    "paddlenlp": PADDLENLP,
    "checkpoint": HUGGING_FACE,
}


def main(argv: Sequence[str]) -> int:
    """Run the command with these arguments; returns the exit status, 0, 1 or 2 (usage)."""
    command = Command(
        "convert",
        "Convert a model's weights. SOURCE is a model of Hugging Face's or PaddleNLP's programs, "
        "a checkpoint, or the output_dir of a run that has ended. Without --to, two PREFIXes: "
        "token data as PREFIX_ids.npy and PREFIX_idx.npz becomes PREFIX.bin and .idx.",
    )
    add = command.add_argument
    add(
        "source",
        type=path_argument,
        metavar="SOURCE",
        help="directory with config.json and weights",
    )
    add("destination", type=path_argument, metavar="DESTINATION", help="directory that is made")
    add(
        "--to",
        required=True,
        choices=TARGETS,
        help="whose format is written; continue_training starts from any of them, and "
        "'checkpoint' names the one that this program writes itself, Hugging Face's",
    )
    add("--dtype", choices=NUMPY_TYPES, help="of the weights (default: as in SOURCE)")

    def work(arguments: argparse.Namespace) -> None:
        source, destination = arguments.source, arguments.destination
        with naming(destination):
            say(convert(source, destination, TARGETS[arguments.to], arguments.dtype))

    return command.run(argv, work)


def convert(
    source: Path, destination: Path, weight_format: WeightFormat, dtype: str | None = None
) -> str:
    """Write the model in `source` to `destination`, holding one tensor in memory at a time.

    Args:
        dtype: of what is written; None is that of the source, float32 where it has several.

    Returns:
        What was done, as a sentence.

    Raises:
        ConfigError: no whole model in `source`, one that the other program does not have, a value
            that `dtype` can't hold, or a `destination` with something in it. Nothing is left at
            `destination` then.
    """
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise ConfigError([f"DESTINATION {destination} exists and is not an empty directory."])
    if not source.is_dir():
        raise ConfigError([f"SOURCE {source}: there is no such directory."])
    model = read_model_config(source, "SOURCE")
    assert_undamaged(source)
    weights = PublishedWeights(source, model)
    dtype = dtype or weights.dtype
    weight_format.write_config(model)  # has the other program such a model?
    was_there = destination.exists()
    try:
        write_weights(
            weights.whole_tensors(), model, destination, dtype=dtype, weight_format=weight_format
        )
        copy_along(files_that_go_along(source, source), destination)
    except BaseException:
        shutil.rmtree(destination, ignore_errors=True)
        if was_there:
            destination.mkdir(exist_ok=True)
        raise
    return (
        f"{destination}: {model.parameter_count():,} parameters from {source} "
        f"({weights.format.program}'s format), in {weight_format.program}'s format, as {dtype}."
    )
