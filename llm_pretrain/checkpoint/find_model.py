"""A whole model from whatever folder holds one, for commands that use it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from llm_pretrain.checkpoint.checksums import DamagedCheckpointError
from llm_pretrain.checkpoint.directory import find_checkpoints
from llm_pretrain.checkpoint.load import load_weights
from llm_pretrain.checkpoint.weight_files import assert_undamaged
from llm_pretrain.config import ConfigError
from llm_pretrain.models.decoder import Decoder
from llm_pretrain.models.families import read_model_config


def find_model(folder: Path, say: Callable[[str], None]) -> Path:
    """The directory with undamaged weights: `folder` itself, or of a run that has not ended its
    newest such checkpoint.

    Args:
        say: gets a line about each newer checkpoint, which is damaged, and one about the choice.

    Raises:
        ConfigError: there is neither, or all there is is damaged.
    """
    if (folder / "config.json").is_file():
        assert_undamaged(folder)
        return folder
    found = find_checkpoints(folder, None, overwrite=False)
    damage = list(found.incomplete.values())
    for checkpoint in found.checkpoints:
        try:
            assert_undamaged(checkpoint)
        except DamagedCheckpointError as error:
            damage.append(str(error))
            continue
        for problem in damage:
            say(f"{problem}: that checkpoint is passed over.")
        if damage:
            say(f"The model is that of {checkpoint}.")
        return checkpoint
    if damage:
        raise ConfigError([f"{folder} holds no whole checkpoint: {'; '.join(damage)}."])
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

    Raises ConfigError where they don't fit.
    """
    config = read_model_config(directory, "DIR")
    model = Decoder(config)
    load_weights(model, config, directory)
    model.eval()
    return model
