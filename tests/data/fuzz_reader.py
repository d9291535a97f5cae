"""Opens and reads mutated data files, one after another. Usage: fuzz_reader.py FOLDER ENDING COUNT

Prints how many of COUNT mutations were refused and how many were read. Its address space is
limited, so that an allocation as large as a damaged header asks for fails.
"""

from __future__ import annotations

import io
import pickle
import random
import resource
import struct
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np

from llm_pretrain.data import DataError, IndexedWriter
from llm_pretrain.data.indexed_dataset import open_indexed
from llm_pretrain.data.npy_dataset import open_npy
from tests.data.npy_files import write_npy

ADDRESS_SPACE = 1 << 30
NUMBERS = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**40, 2**63 - 1, 2**64 - 1]
DOCUMENTS = [list(range(length)) for length in (3, 0, 8, 5, 1)]
HEADERS = [
    b"{'descr': '|O', 'fortran_order': False, 'shape': (5,), }",
    b"{'descr': '<i8', 'fortran_order': False, 'shape': (1152921504606846976,), }",
    b"{'descr': '<i8', 'fortran_order': False, 'shape': (-1,), }",
    b"{'descr': '<i8', 'fortran_order': False, 'shape': (4294967296, 4294967296), }",
    b"{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (5,), }",
    b"{'descr': '<f8', 'fortran_order': False, 'shape': (5,), }",
    b"{'descr': '<V1099511627776', 'fortran_order': False, 'shape': (1,), }",
    b"(" * 5000,
]


class Planted:
    """Its unpickling ends the process, which the test would see."""

    def __reduce__(self) -> tuple:
        return sys.exit, ("something was unpickled",)


def mutated(content: bytes, generator: random.Random) -> bytes:
    """Bits flipped, numbers set to extremes, bytes cut out, put in or off the end."""
    changed = bytearray(content)
    for _ in range(generator.choice([1, 1, 1, 2, 5])):
        at = generator.randrange(len(changed) or 1)
        kind = generator.randrange(6)
        if kind == 0:
            changed[at : at + 1] = generator.randbytes(1)
        elif kind == 1:
            width = generator.choice([1, 2, 4, 8])
            changed[at : at + width] = number(generator, width)
        elif kind == 2:
            del changed[at:]
        elif kind == 3:
            del changed[at : at + generator.choice([1, 4, 8])]
        elif kind == 4:
            changed[at:at] = generator.randbytes(generator.choice([1, 4, 8, 100]))
        elif changed:
            changed[at] ^= 1 << generator.randrange(8)
    return bytes(changed)


def number(generator: random.Random, width: int) -> bytes:
    return (generator.choice(NUMBERS) % (1 << 8 * width)).to_bytes(width, "little")


def with_other_counts(content: bytes, generator: random.Random) -> bytes:
    """`.idx`: the header's counts are extreme, or the two ask for the same bytes as before."""
    sequences, starts = struct.unpack_from("<QQ", content, 18)
    if generator.random() < 0.5:
        shift = generator.choice([-2, -1, 1, 2])
        counts = struct.pack("<QQ", max(0, sequences + 2 * shift), max(0, starts - 3 * shift))
    else:
        counts = number(generator, 8) + number(generator, 8)
    return content[:18] + counts + content[34:]


def with_other_header(content: bytes, generator: random.Random) -> bytes:
    """`.npy`: another header over the same numbers, or over a pickle."""
    header = generator.choice(HEADERS)
    header += b" " * (-len(header) % 64) + b"\n"
    body = pickle.dumps(Planted()) if generator.random() < 0.5 else content[-40:]
    version = generator.choice([b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x09\x00"])
    length = struct.pack("<H" if version[0] == 1 else "<I", len(header))
    return b"\x93NUMPY" + version + length + header + body


def with_other_member(content: bytes, generator: random.Random) -> bytes:
    """`.npz`: a whole archive of which one array is tampered with; compressed or not."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = generator.choice(sorted(members))
    tamper = generator.choice([with_other_header, mutated])
    members[name] = tamper(members[name], generator)
    if generator.random() < 0.05:
        members[name] += bytes(1 << 24)  # a small file that unpacks to a large one
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", generator.choice([0, zipfile.ZIP_DEFLATED])) as archive:
        for member, text in members.items():
            archive.writestr(member, text)
    return file.getvalue()


SPECIAL = {".idx": with_other_counts, "_idx.npz": with_other_member, "_ids.npy": with_other_header}


def fuzz(folder: Path, ending: str, count: int) -> tuple[int, int]:
    """Number of mutations that were refused, and of those that were read."""
    generator = random.Random(f"mutations of {ending}")
    prefix = folder / "x"
    with IndexedWriter(prefix, np.uint16) as writer:
        for document in DOCUMENTS:
            writer.add_document(document)
    flat = np.concatenate(DOCUMENTS).astype(np.int32)
    write_npy(prefix, flat, [len(document) for document in DOCUMENTS], list(range(6)))
    path = Path(f"{prefix}{ending}")
    open_data = open_npy if ending.startswith("_") else open_indexed
    whole = path.read_bytes()
    refused = read = 0
    for _ in range(count):
        mutate = mutated if generator.random() < 0.7 else SPECIAL.get(ending, mutated)
        path.write_bytes(mutate(whole, generator))
        try:
            data = open_data(prefix)
            for sequence in range(len(data.sizes)):
                assert len(data.read(sequence, 0, None)[0]) == data.sizes[sequence]
            read += 1
        except DataError as error:
            if str(prefix) not in str(error):
                raise AssertionError("no file is named") from error
            refused += 1
    return refused, read


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    print(*fuzz(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
