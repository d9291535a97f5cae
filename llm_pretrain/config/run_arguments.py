"""What a run does, where it writes, and how many samples it takes at a time."""

from __future__ import annotations

import re

from pydantic import Field, field_validator

from llm_pretrain.config.arguments import Arguments, Flag, Integer, Text, shown
from llm_pretrain.config.paths import PathText


class RunArguments(Arguments):
    """Run: what is done, where, and where the results go."""

    output_dir: PathText = Field(
        min_length=1, description="Directory for checkpoints, the final model and the logs."
    )
    overwrite_output_dir: Flag = Field(
        False, description="Start anew even if output_dir holds a checkpoint to resume from."
    )
    do_train: Flag = Field(False, description="Train for max_steps steps.")
    do_eval: Flag = Field(False, description="Evaluate on the validation split during training.")
    do_predict: Flag = Field(False, description="Evaluate on the test split at the end.")
    device: Text | None = Field(
        None,
        description="gpu or cpu; null takes a GPU where there is one, else the CPU.",
    )
    distributed_timeout: Integer = Field(
        300,
        ge=10,
        description="Seconds within which the job ends when one of its processes or machines gives "
        "no more sign of life.",
    )
    seed: Integer = Field(
        42, ge=0, lt=2**32, description="Seed of the initial weights, the data order and dropout."
    )
    print_config: Flag = Field(
        False, description="Print every value with where it came from before training."
    )

    @field_validator("device")
    @classmethod
    def _known_device(cls, device: str | None) -> str | None:
        if device is not None and not re.fullmatch(r"(gpu|cpu)(:\d+)?", device):
            raise ValueError(f"{shown(device)} is not available; it can be gpu, gpu:N or cpu")
        return device


class BatchArguments(Arguments):
    """Batch: samples per device and step, and how they are read."""

    per_device_train_batch_size: Integer = Field(
        8, gt=0, description="Samples per device and micro-step in training."
    )
    per_device_eval_batch_size: Integer = Field(
        8,
        gt=0,
        description="Samples per device and micro-step in evaluation. With pipeline parallelism "
        "it is the training batch × gradient_accumulation_steps.",
    )
    gradient_accumulation_steps: Integer = Field(
        1,
        gt=0,
        description="Micro-steps whose gradients are summed for one optimizer step; with pipeline "
        "parallelism the number of micro-batches in flight.",
    )
    dataloader_num_workers: Integer = Field(
        0, ge=0, description="Threads that read batches ahead; 0 reads in the training thread."
    )
    distributed_dataloader: Flag = Field(
        False,
        description="Of the ranks that train on the same samples (tensor and pipeline parallel, "
        "split sequences) the first reads them and sends them to the others, which need no access "
        "to the data. False: each reads for itself.",
    )
    ignore_data_skip: Flag = Field(
        False, description="On resuming, begin the data anew in place of where it stood."
    )
    skip_data_intervals: tuple[tuple[Integer, Integer], ...] | None = Field(
        None,
        description="[[first, last], …] of global steps whose data is passed over, to step around "
        "a spike of the loss.",
    )

    @field_validator("skip_data_intervals")
    @classmethod
    def _ordered(
        cls, intervals: tuple[tuple[int, int], ...] | None
    ) -> tuple[tuple[int, int], ...] | None:
        for first, last in intervals or ():
            if not 0 < first <= last:
                raise ValueError(f"[{first}, {last}] is no interval of steps: 1 <= first <= last")
        return intervals
