"""The part of data.py that is this program's: `data_ours.py TASK JOB.json RESULT.json`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from data_measure import Measured

from llm_pretrain.config import DataArguments
from llm_pretrain.data import BatchLoader, Datasets, SampleCounts, build_datasets
from llm_pretrain.data.find_data import open_data
from llm_pretrain.data.preprocess import main


def preprocess(job: dict, result: str) -> None:
    arguments = ["--model_name_or_path", job["tokenizer"], "--input_path", job["text"]]
    arguments += ["--output_prefix", job["prefix"], "--append_eos", "--workers", "1"]
    with Measured() as measured:
        # The peers don't shorten runs of one character.
        status = main([*arguments, "--max_repeated_len", "0"])
    assert status == 0
    measured.write(result, tokens=open_data(Path(job["prefix"])).token_count)


def build(job: dict) -> Datasets:
    data = DataArguments.model_validate(
        {
            "input_dir": job["prefix"],
            "split": "1,0,0",
            "max_seq_length": job["sequence_length"],
            "data_cache": job["cache"],
        }
    )
    counts = SampleCounts(train=job["samples"])
    return build_datasets(data, counts, seed=1234, builder=True, timeout_s=1, vocab_size=None)


def index(job: dict, result: str) -> None:
    with Measured() as measured:
        datasets = build(job)
    assert datasets.train is not None
    measured.write(result, samples=len(datasets.train))


def read(job: dict, result: str) -> None:
    """As training does, in batches; the thread that reads ahead is left out."""
    dataset = build(job).train
    assert dataset is not None
    total = 0
    with Measured() as measured:
        loader = BatchLoader(dataset, batch_size=job["batch"], rank=0, degree=1, workers=0)
        for _ in range(job["batches"]):
            batch = next(loader)
            total += int(batch.tokens[0, 0]) + int(batch.labels[-1, -1])
    measured.write(result, samples=job["batch"] * job["batches"], check=total)


def read_single(job: dict, result: str) -> None:
    dataset = build(job).train
    assert dataset is not None
    total = 0
    with Measured() as measured:
        for number in range(job["batch"] * job["batches"]):
            example = dataset[number]
            total += int(np.int64(example.inputs[0])) + int(example.labels[-1])
    measured.write(result, samples=job["batch"] * job["batches"], check=total)


TASKS = {"preprocess": preprocess, "index": index, "read": read, "read_single": read_single}

if __name__ == "__main__":
    TASKS[sys.argv[1]](json.loads(Path(sys.argv[2]).read_text()), sys.argv[3])
