"""The part of data.py that is Megatron's: `data_megatron.py TASK JOB.json RESULT.json`.

Preprocessing is the loop of its tools/preprocess_data.py (which is not in the package) over
`transformers`' fast tokenizer, with the package's own builder.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from data_measure import Measured
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
from megatron.core.datasets.indexed_dataset import IndexedDataset, IndexedDatasetBuilder
from megatron.core.datasets.utils import Split
from torch.utils.data import DataLoader, Subset


def preprocess(job: dict, result: str) -> None:
    from transformers import PreTrainedTokenizerFast

    tokens = 0
    with Measured() as measured:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(job["tokenizer"])
        builder = IndexedDatasetBuilder(job["prefix"] + ".bin", dtype=np.uint16)
        with Path(job["text"]).open(encoding="utf-8") as lines:
            for line in lines:
                ids = tokenizer(json.loads(line)["text"]).input_ids
                ids.append(tokenizer.eos_token_id)
                builder.add_document(ids, [len(ids)])
                tokens += len(ids)
        builder.finalize(job["prefix"] + ".idx")
    measured.write(result, tokens=tokens)


def build(job: dict) -> GPTDataset:
    config = GPTDatasetConfig(
        random_seed=1234,
        sequence_length=job["sequence_length"],
        split="1",
        path_to_cache=job["cache"],
        tokenizer=SimpleNamespace(vocab_size=None, eod=-1, pad=-1, unique_identifiers={}),
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        # The mask of every sample would be 1 MB, and slower still.
        create_attention_mask=False,
    )
    data = IndexedDataset(job["prefix"])
    documents = np.arange(len(data), dtype=np.int32)
    return GPTDataset(data, job["prefix"], documents, job["samples"], Split.train, config)


def index(job: dict, result: str) -> None:
    with Measured() as measured:
        dataset = build(job)
    measured.write(result, samples=len(dataset))


def read(job: dict, result: str) -> None:
    """In batches, by PyTorch's loader, without processes of its own."""
    count = job["batch"] * job["batches"]
    loader = DataLoader(Subset(build(job), range(count)), batch_size=job["batch"])
    total = 0
    with Measured() as measured:
        for batch in loader:
            total += int(batch["tokens"][0, 0]) + int(batch["labels"][-1, -1])
    measured.write(result, samples=count, check=total)


def read_single(job: dict, result: str) -> None:
    dataset = build(job)
    total = 0
    with Measured() as measured:
        for number in range(job["batch"] * job["batches"]):
            sample = dataset[number]
            total += int(sample["tokens"][0]) + int(sample["labels"][-1])
    measured.write(result, samples=job["batch"] * job["batches"], check=total)


TASKS = {"preprocess": preprocess, "index": index, "read": read, "read_single": read_single}

if __name__ == "__main__":
    TASKS[sys.argv[1]](json.loads(Path(sys.argv[2]).read_text()), sys.argv[3])
