"""Training data: from `.bin/.idx` files to batches. NumPy only."""

from __future__ import annotations

from llm_pretrain.data.build import Datasets, SampleCounts, build_datasets
from llm_pretrain.data.indexed_writer import IndexedWriter
from llm_pretrain.data.overview import data_problems, describe_data, describe_ids
from llm_pretrain.data.samples import Batch, BatchLoader, Dataset, Sample
from llm_pretrain.data.sources import Sources, lone_validation, open_sources
from llm_pretrain.data.token_data import DataError

__all__ = [
    "Batch",
    "BatchLoader",
    "DataError",
    "Dataset",
    "Datasets",
    "IndexedWriter",
    "Sample",
    "SampleCounts",
    "Sources",
    "build_datasets",
    "data_problems",
    "describe_data",
    "describe_ids",
    "lone_validation",
    "open_sources",
]
