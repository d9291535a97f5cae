"""A whole model from whatever folder holds one, for commands that use it."""

from __future__ import annotations

from pathlib import Path

from llm_pretrain.checkpoint.directory import whole_checkpoints
from llm_pretrain.checkpoint.load import load_weights
from llm_pretrain.checkpoint.weight_files import assert_undamaged
from llm_pretrain.config import ConfigError
from llm_pretrain.models.decoder import Decoder
from llm_pretrain.models.families import read_model_config


def find_model(folder: Path) -> Path:
    """The directory with the weights: `folder` itself, or of a run that has not ended its newest
    whole checkpoint. Raises ConfigError where there is neither."""
    if (folder / "config.json").is_file():
        return folder
    checkpoints = whole_checkpoints(folder)
    if checkpoints:
        return checkpoints[-1]
    if not folder.is_dir():
        raise ConfigError([f"{folder}: there is no such directory."])
    raise ConfigError(
        [
            f"{folder} holds no model: expected is a directory with config.json and weights, or "
            "the output_dir of a run with a checkpoint."
        ]
    )


def load_model(directory: Path) -> Decoder:
    """The model of a directory with config.json and weights of any layout, in float32.

    Raises ConfigError where they are damaged or don't fit.
    """
    config = read_model_config(directory, "DIR")
    assert_undamaged(directory)
    model = Decoder(config)
    load_weights(model, config, directory)
    model.eval()
    return model
