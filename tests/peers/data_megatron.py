"""Runs in Megatron's environment: its indexed datasets for the cases of a JSON file.

Usage: data_megatron.py CASES.json OUT_DIRECTORY. A case with `write` is a prefix to be written,
with Megatron's own builder, from `documents`, each a list of sequences, in tokens of `dtype`.
A case with `read` is a prefix whose tokens, sequence lengths and documents go to
OUT_DIRECTORY/<number>.npz. A case with `samples` is a prefix, of which Megatron's GPTDataset cuts
`count` samples of `sequence_length` + 1 tokens; they go to the same place.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
from megatron.core.datasets.indexed_dataset import IndexedDataset, IndexedDatasetBuilder
from megatron.core.datasets.utils import Split


def write(prefix: str, documents: list[list[list[int]]], dtype: str) -> None:
    builder = IndexedDatasetBuilder(prefix + ".bin", dtype=np.dtype(dtype).type)
    for sequences in documents:
        for sequence in sequences:
            builder.add_item(torch.tensor(sequence, dtype=torch.int64))
        builder.end_document()
    builder.finalize(prefix + ".idx")


def read(prefix: str) -> dict[str, np.ndarray]:
    dataset = IndexedDataset(prefix)
    return {
        "tokens": np.concatenate([dataset[number] for number in range(len(dataset))]),
        "sizes": np.asarray(dataset.sequence_lengths),
        "documents": np.asarray(dataset.document_indices),
    }


def read_samples(
    prefix: str, count: int, sequence_length: int, seed: int, cache: Path
) -> dict[str, np.ndarray]:
    low = IndexedDataset(prefix)
    config = GPTDatasetConfig(
        random_seed=seed,
        sequence_length=sequence_length,
        split="1",
        path_to_cache=str(cache),
        tokenizer=SimpleNamespace(vocab_size=None, eod=-1, pad=-1, unique_identifiers={}),
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
    )
    documents = np.arange(len(low), dtype=np.int32)
    dataset = GPTDataset(low, prefix, documents, count, Split.train, config)
    samples = [dataset[number] for number in range(len(dataset))]
    return {
        name: torch.stack([sample[name] for sample in samples]).numpy()
        for name in ("tokens", "labels")
    }


def main(cases_path: str, out: str) -> None:
    for number, case in enumerate(json.loads(Path(cases_path).read_text())):
        if "write" in case:
            write(case["write"], case["documents"], case["dtype"])
            continue
        if "read" in case:
            arrays = read(case["read"])
        else:
            arrays = read_samples(
                case["samples"],
                case["count"],
                case["sequence_length"],
                case["seed"],
                Path(out) / f"cache{number}",
            )
        np.savez(Path(out) / f"{number}.npz", **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
