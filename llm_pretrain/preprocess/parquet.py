"""One column of texts of a Parquet file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

from llm_pretrain.preprocess.errors import PreprocessError

_ROWS = 256


def parquet_texts(file: IO[bytes], column: str) -> Iterator[bytes | None]:
    """The texts in UTF-8, None where there is none; a row group is in memory at a time.

    Raises OSError or ValueError where the file is damaged or has no such column of texts.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise PreprocessError(
            "Files that end in .parquet need the package pyarrow: "
            "pip install 'llm_pretrain[preprocess]'."
        ) from error
    table = parquet.ParquetFile(file)
    names = table.schema_arrow.names
    if column not in names:
        raise ValueError(f"there is no column {column!r} (--json_key); its columns: {names}")
    for batch in table.iter_batches(_ROWS, columns=[column]):
        texts = batch.column(0)
        if pyarrow.types.is_dictionary(texts.type):
            texts = texts.dictionary_decode()
        if not (pyarrow.types.is_string(texts.type) or pyarrow.types.is_large_string(texts.type)):
            raise ValueError(f"the column {column!r} is not of strings but of {texts.type}")
        yield from texts.cast(pyarrow.large_binary()).to_pylist()
