"""The part of data.py that is PaddleNLP's: `data_paddlenlp.py TASK JOB.json RESULT.json`.

Preprocessing does what its create_pretraining_data.py does (which is not in the package), with
the package's GPT tokenizer and builder.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from data_measure import Measured
from paddlenlp.data import causal_dataset, indexed_dataset
from paddlenlp.transformers import GPTTokenizer


def preprocess(job: dict, result: str) -> None:
    folder = Path(job["tokenizer"])
    tokens = 0
    with Measured() as measured:
        tokenizer = GPTTokenizer(
            str(folder / "vocab.json"),
            str(folder / "merges.txt"),
            unk_token="<unk>",
            eos_token="</s>",
            pad_token="</s>",
        )
        end = tokenizer.eos_token_id
        builder = indexed_dataset.make_builder(job["prefix"] + ".bin", "mmap", np.uint16)
        with Path(job["text"]).open(encoding="utf-8") as lines:
            for line in lines:
                words = tokenizer.tokenize(json.loads(line)["text"])
                ids = [*tokenizer.convert_tokens_to_ids(words), end]
                builder.add_doc(ids, [len(ids)])
                tokens += len(ids)
        builder.finalize(job["prefix"] + ".idx")
    measured.write(result, tokens=tokens)


def build(job: dict) -> causal_dataset.GPTDataset:
    counts = [job["samples"], 0, 0]
    datasets = causal_dataset.build_train_valid_test_datasets(
        [job["prefix"]],
        "mmap",
        "1,0,0",
        counts,
        job["sequence_length"],
        1234,
        True,
        data_cache_path=job["cache"],
    )
    return datasets[0]


def index(job: dict, result: str) -> None:
    with Measured() as measured:
        dataset = build(job)
    measured.write(result, samples=len(dataset))


TASKS = {"preprocess": preprocess, "index": index}

if __name__ == "__main__":
    TASKS[sys.argv[1]](json.loads(Path(sys.argv[2]).read_text()), sys.argv[3])
