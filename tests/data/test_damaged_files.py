"""Whatever is done to a file, the answer is a DataError or a reading within its bounds."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from llm_pretrain.data import DataError, IndexedWriter
from llm_pretrain.data.indexed_dataset import open_indexed
from llm_pretrain.data.npy_dataset import open_npy, write_npy
from llm_pretrain.data.token_data import TokenData

MUTATIONS = 400
NUMBERS = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**63, 2**64 - 1]


def mutated(content: bytes, generator: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(generator.choice([1, 1, 1, 2, 5])):
        at = generator.randrange(len(changed) or 1)
        kind = generator.randrange(6)
        if kind == 0:
            changed[at : at + 1] = bytes([generator.randrange(256)])
        elif kind == 1:
            width = generator.choice([1, 4, 8])
            number = generator.choice(NUMBERS) % (1 << 8 * width)
            changed[at : at + width] = number.to_bytes(width, "little")
        elif kind == 2:
            del changed[at:]
        elif kind == 3:
            del changed[at : at + generator.choice([1, 4, 8])]
        elif kind == 4:
            changed[at:at] = generator.randbytes(generator.choice([1, 4, 8, 100]))
        elif changed:
            changed[at] ^= 1 << generator.randrange(8)
    return bytes(changed)


@pytest.mark.parametrize(
    ("ending", "read"),
    [
        (".idx", open_indexed),
        (".bin", open_indexed),
        ("_idx.npz", open_npy),
        ("_ids.npy", open_npy),
    ],
)
def test_mutations(tmp_path: Path, ending: str, read: Callable[[Path], TokenData]) -> None:
    generator = random.Random(f"mutations of {ending}")
    prefix = tmp_path / "x"
    documents = [list(range(n)) for n in (3, 0, 8, 5, 1)]
    with IndexedWriter(prefix, np.uint16) as writer:
        for document in documents:
            writer.add_document(document)
    flat = np.concatenate(documents).astype(np.int32)
    write_npy(prefix, flat, [len(document) for document in documents], list(range(6)))
    path = Path(f"{prefix}{ending}")
    whole = path.read_bytes()

    errors = readings = 0
    for _ in range(MUTATIONS):
        path.write_bytes(mutated(whole, generator))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                data = read(prefix)
        except DataError as error:
            errors += str(prefix) in str(error)
            continue
        for sequence in range(len(data.sizes)):
            assert len(data.read(sequence, 0, None)[0]) == data.sizes[sequence]
        readings += 1
    # Every error names the file, and a fuzz that never reaches a reading would prove little.
    assert errors + readings == MUTATIONS
    assert readings > 5
