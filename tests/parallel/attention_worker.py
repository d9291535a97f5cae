"""Attention over the ranks of one axis; each rank writes its part of the results and gradients.

Usage: attention_worker.py DIRECTORY DEGREES, such as sep2 or tensor2-sep2.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from llm_pretrain.config import Degrees
from llm_pretrain.parallel.comm import topology
from llm_pretrain.parallel.layers.attention import attention, local_heads
from llm_pretrain.parallel.layers.micro_batch import Sequences, local_ranges
from tests.parallel.attention_cases import CASES, LENGTH, PLACE, SAMPLES, SEED, Case

ONE = Degrees(data=1, sharding=1, tensor=1, pipeline=1, sep=1, context=1, virtual_pipeline=1)


def parts(case: Case) -> dict[str, np.ndarray]:
    """This rank's part of the output and of the gradients, and which part it is."""
    import paddle  # after llm_pretrain, whose settings must come first

    heads = local_heads(case.heads, case.key_heads)
    sequences = Sequences(
        LENGTH,
        SAMPLES,
        local_ranges(LENGTH),
        seed=SEED,
        prefix_ends=case.prefix_ends,
        document_starts=case.document_starts,
    )
    here = sequences.positions
    queries = slice(heads.first_query, heads.first_query + heads.queries)
    keys = slice(heads.first_key, heads.first_key + heads.keys)
    tensors = [
        paddle.to_tensor(array[:, here, which].astype(np.float32)).astype(case.dtype)
        for array, which in zip(case.arrays(), (queries, keys, keys, queries), strict=True)
    ]
    *operands, gradient = tensors
    for operand in operands:
        operand.stop_gradient = False
    output = attention(
        *operands,
        sequences,
        heads,
        slopes=case.slopes,
        dropout=case.dropout,
        place=PLACE,
        flash=case.flash,
    )
    output.backward(gradient)
    results = [output, *(operand.grad for operand in operands)]
    return {
        **{name: x.astype("float32").numpy() for name, x in zip("oqkv", results, strict=True)},
        "positions": here,
        "queries": np.array([queries.start, queries.stop]),
        "keys": np.array([keys.start, keys.stop]),
    }


def main(directory: Path, degrees: str) -> None:
    import paddle

    paddle.device.set_device("cpu")
    named = {part[:-1]: int(part[-1]) for part in degrees.split("-")}
    here = topology.initialize(replace(ONE, **named))
    for name, case in CASES.items():
        np.savez(directory / f"{name}.{here.rank}.npz", **parts(case))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
