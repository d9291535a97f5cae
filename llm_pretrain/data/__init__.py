"""Training data: from `.bin/.idx` files to batches. NumPy only.

`shared_batches` alone, which sends samples between processes, imports Paddle; nothing that is named
here does.
"""

from __future__ import annotations

from llm_pretrain.data.build import Datasets, SampleCounts, build_datasets
from llm_pretrain.data.describe import describe_data
from llm_pretrain.data.errors import DataError
from llm_pretrain.data.indexed_writer import IndexedWriter
from llm_pretrain.data.loader import Batch, BatchLoader
from llm_pretrain.data.samples import Dataset, Sample

__all__ = [
    "Batch",
    "BatchLoader",
    "DataError",
    "Dataset",
    "Datasets",
    "IndexedWriter",
    "Sample",
    "SampleCounts",
    "build_datasets",
    "describe_data",
]
