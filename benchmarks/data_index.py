"""Time and memory of the index of samples, by the number of documents.

    python -m benchmarks.data_index [--documents 1000000 10000000 100000000] [--numpy]

For each number it writes an index of documents of random lengths (500 tokens on average) with a
`.bin` that is a hole, builds the order of one epoch in a new process, and opens it again, from the
cache, in another. Needs some 4 GB of disk for 100 million documents. The memory is that of the
process beyond what it had after its imports: `memory` is what it allocated itself (anonymous
pages), `with files` counts pages of mapped files too, which the system may drop at any time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

MIB = 1 << 20
MEAN_LENGTH = 500
SEQUENCE_LENGTH = 1024


def write_documents(prefix: Path, documents: int) -> int:
    """Write `.idx` and a sparse `.bin`; the number of tokens."""
    from llm_pretrain.data.indexed_dataset import bin_path, index_path
    from llm_pretrain.data.indexed_writer import write_index

    lengths = np.random.default_rng(0).integers(1, 2 * MEAN_LENGTH, documents, dtype=np.int32)
    with index_path(prefix).open("wb") as file:
        write_index(file, np.dtype("u2"), lengths)
    tokens = int(lengths.sum(dtype=np.int64))
    with bin_path(prefix).open("wb") as file:
        file.truncate(2 * tokens)
    return tokens


class Memory:
    """The largest memory of this process in MiB, looked at every 10 ms."""

    def __init__(self) -> None:
        self._first = self._now()
        self.anonymous = self.resident = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            anonymous, resident = self._now()
            self.anonymous = max(self.anonymous, anonymous - self._first[0])
            self.resident = max(self.resident, resident - self._first[1])

    @staticmethod
    def _now() -> tuple[float, float]:
        lines = Path("/proc/self/status").read_text().splitlines()
        values = dict(line.split(":", 1) for line in lines)
        return tuple(int(values[name].split()[0]) / 1024 for name in ("RssAnon", "VmRSS"))  # type: ignore[return-value]


def open_index(prefix: Path, tokens: int, *, use_numpy: bool) -> dict[str, float]:
    """Build the datasets as training does, or open what is in the cache."""
    from llm_pretrain.config import DataArguments
    from llm_pretrain.data import SampleCounts, build_datasets, sample_index

    if use_numpy:
        sample_index.__dict__["_native"] = None
    data = DataArguments.model_validate(
        {"input_dir": str(prefix), "split": "1,0,0", "max_seq_length": SEQUENCE_LENGTH}
    )
    counts = SampleCounts(train=(tokens - 1) // SEQUENCE_LENGTH)
    begin = time.perf_counter()
    with Memory() as memory:
        build_datasets(data, counts, seed=1234, builder=True, vocab_size=1 << 16)
        seconds = time.perf_counter() - begin
    return {"seconds": seconds, "memory": memory.anonymous, "with files": memory.resident}


def in_new_process(prefix: Path, tokens: int, *, use_numpy: bool) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.data_index", "--open", str(prefix), str(tokens)]
    output = subprocess.run(
        [*command, *(["--numpy"] if use_numpy else [])], check=True, stdout=subprocess.PIPE
    ).stdout
    return json.loads(output.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, nargs="+", default=[10**6, 10**7, 10**8])
    parser.add_argument("--numpy", action="store_true", help="without fast_dataindex")
    parser.add_argument("--open", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.open:
        prefix, tokens = arguments.open
        print(json.dumps(open_index(Path(prefix), int(tokens), use_numpy=arguments.numpy)))
        return
    print("documents     build s  memory MiB  with files MiB  cached s  memory MiB", flush=True)
    for documents in arguments.documents:
        with tempfile.TemporaryDirectory(prefix="data_index_") as folder:
            prefix = Path(folder) / "text"
            tokens = write_documents(prefix, documents)
            built, opened = (
                in_new_process(prefix, tokens, use_numpy=arguments.numpy) for _ in range(2)
            )
        print(
            f"{documents:<12}{built['seconds']:9.2f}{built['memory']:12.0f}"
            f"{built['with files']:16.0f}{opened['seconds']:10.2f}{opened['memory']:12.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
