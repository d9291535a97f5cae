"""Runs in PaddleNLP's environment: its samples for the cases of a JSON file, as .npz files.

Usage: data_paddlenlp.py CASES.json OUT_DIRECTORY. A case has `input` (words of input_dir), `split`,
`counts`, `sequence_length` and `seed`, and its index cache is beside the data where it has
`cache_beside_data`; its result is OUT_DIRECTORY/<number>.npz with an array
[samples, sequence length + 1] for each split, and `<split>_mask` where there is a loss mask.
A case with `read` instead is a prefix, whose sequences are given back one after another.
A case with `sampler` (length, batch_size, degree, rank, consumed) gives the samples of each batch.
A case with `write` is a prefix to be written, with PaddleNLP's own writer, from `documents`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from paddlenlp.data import causal_dataset, indexed_dataset
from paddlenlp.utils.batch_sampler import DistributedBatchSampler


def read_samples(case: dict, cache: Path | None) -> dict[str, np.ndarray]:
    datasets = causal_dataset.build_train_valid_test_datasets(
        case["input"],
        "mmap",
        case["split"],
        case["counts"],
        case["sequence_length"],
        case["seed"],
        True,
        data_cache_path=None if cache is None else str(cache),
    )
    arrays = {}
    for name, dataset in zip(("train", "valid", "test"), datasets, strict=True):
        if dataset is None:
            continue
        items = [dataset[number] for number in range(len(dataset))]
        arrays[name] = np.stack([item["text"] for item in items])
        if "mask" in items[0]:
            arrays[f"{name}_mask"] = np.stack([item["mask"] for item in items])
    return arrays


def read_sequences(prefix: str) -> dict[str, np.ndarray]:
    dataset = indexed_dataset.make_dataset(prefix, "mmap", True)
    return {
        "tokens": np.concatenate([dataset.get(i)[0] for i in range(len(dataset))]),
        "sizes": np.asarray(dataset.sizes),
        "documents": np.asarray(dataset.doc_idx),
    }


def batches(
    length: int, batch_size: int, degree: int, rank: int, consumed: int
) -> dict[str, np.ndarray]:
    sampler = DistributedBatchSampler(
        range(length),
        batch_size,
        num_replicas=degree,
        rank=rank,
        shuffle=False,
        drop_last=True,
        consumed_samples=consumed,
    )
    return {"batches": np.array(list(sampler), np.int64).reshape(-1, batch_size)}


def write(prefix: str, documents: list[list[list[int]]], dtype: str) -> None:
    builder = indexed_dataset.make_builder(prefix + ".bin", "mmap", np.dtype(dtype).type)
    for sequences in documents:
        for sequence in sequences:
            builder.add_item(sequence)
        builder.end_document()
    builder.finalize(prefix + ".idx")


def main(cases_path: str, out: str) -> None:
    for number, case in enumerate(json.loads(Path(cases_path).read_text())):
        if "write" in case:
            write(case["write"], case["documents"], case["dtype"])
            continue
        if "read" in case:
            arrays = read_sequences(case["read"])
        elif "sampler" in case:
            arrays = batches(**case["sampler"])
        else:
            beside = case.get("cache_beside_data", False)
            arrays = read_samples(case, None if beside else Path(out) / f"cache{number}")
        np.savez(Path(out) / f"{number}.npz", **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
