"""Which tokens are read, and how they are cut into samples."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from llm_pretrain.config.arguments import Arguments, Flag, Integer, Text
from llm_pretrain.config.paths import DataPath, PathText


class DataArguments(Arguments):
    """Data: where the tokens are and how they are cut into samples."""

    input_dir: DataPath | None = Field(
        None,
        description="Directory with the .bin/.idx files, 'weight1 prefix1 weight2 prefix2 …', or a "
        "blend.yaml with names, paths, and weights or epochs.",
    )
    split: Text = Field(
        "949,50,1",
        description="Shares of the documents for training, validation and test; ',' or '/' "
        "between them.",
    )
    max_seq_length: Integer = Field(
        1024, gt=0, description="Tokens per sample that the model sees (a sample holds one more)."
    )
    reset_attention_mask: Flag = Field(
        False,
        description="A token sees nothing of the documents before its own in a sample; documents "
        "end with the model's eos_token_id.",
    )
    reset_position_ids: Flag = Field(
        False, description="Positions count from the start of a document, not of the sample."
    )
    share_folder: Flag = Field(
        False,
        description="All nodes see the same data directory: one process builds the index cache "
        "for all. False: one process of each node builds it.",
    )
    data_impl: Literal["mmap"] = Field("mmap", description="Format of the files: memory-mapped.")
    data_cache: PathText | None = Field(
        None,
        description="Directory for the index cache; an index-cache directory beside the data that "
        "has the files wins.",
    )
