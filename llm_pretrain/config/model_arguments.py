"""Which model is trained, and on which tokens."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from llm_pretrain.config.argument_types import (
    Arguments,
    DataPath,
    Flag,
    Integer,
    Number,
    PathText,
    Text,
    expanded_words,
    shown,
)
from llm_pretrain.config.data_stages import DataStages


def _named_data(value: Any) -> Any:
    """{name: what input_dir may be}, also of a text: JSON, or name=path words."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        value = json.loads(value)
    elif isinstance(value, str):
        for word in value.split():
            if "=" not in word:
                raise ValueError(
                    f"{shown(word)} is not name=path; a path of several words, as of a blend, is "
                    'written in JSON: {"name": "0.7 data/a 0.3 data/b"}'
                )
        pairs = [word.partition("=")[::2] for word in value.split()]
        value = dict(pairs)
        if len(value) < len(pairs):
            raise ValueError(f"{shown(' '.join(name for name, _ in pairs))} has a name twice")
    if not isinstance(value, dict) or not value:
        raise ValueError(f"{shown(value)} is no set of names and paths: {{name: path, …}}")
    for name, path in value.items():
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise ValueError(f"{shown(name)} is no name: letters, digits, _ and - make one")
        if not isinstance(path, str) or not path.strip():
            raise ValueError(f"{name} has no path")
    return {name: expanded_words(path) for name, path in value.items()}


NamedData = Annotated[
    dict[str, str],
    BeforeValidator(_named_data),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "object", "additionalProperties": {"type": "string"}},
                {"type": "string"},
            ]
        }
    ),
]


class OperatorArguments(Arguments):
    """Operators: which implementations serve, where null takes the fastest that works here."""

    use_flash_attention: Flag | None = Field(
        None,
        description="Compute attention block by block, so that its memory grows with the length "
        "of the sequence and not with its square. true asks for it even where no fast operator is "
        "built; false computes all scores.",
    )
    use_fused_rms_norm: Flag | None = Field(
        None,
        description="Norms, RMS and layer norm, by one fast operator each, and with "
        "them the additions of branches to what passes through the layers.",
    )
    use_fused_rope: Flag | None = Field(None, description="Rotary embedding by one fast operator.")
    use_fused_linear_cross_entropy: Flag | None = Field(
        None,
        description="Compute the loss in slices of the vocabulary, so that the logits are never "
        "in memory whole. true asks for it even where no fast operator is built.",
    )
    strict_ops: Flag = Field(
        False,
        description="Stop where a fast operator that is set to true above can't serve, instead of "
        "going on with a plain one.",
    )


class ModelArguments(OperatorArguments):
    """Model: which one, and what of its published config is changed."""

    model_name_or_path: PathText = Field(
        "__internal_testing__/tiny-random-llama",
        description="A directory in Hugging Face's or PaddleNLP's layout, a checkpoint of this "
        "program, or the name of a model whose config is built in.",
    )
    tokenizer_name_or_path: PathText | None = Field(
        None,
        description="Directory of the tokenizer; by default model_name_or_path. Without a "
        "tokenizer training works on token ids alone.",
    )
    continue_training: Flag = Field(
        False,
        description="Start from the weights in model_name_or_path; false starts from random ones.",
    )
    resize_vocabulary: Flag = Field(
        False,
        description="Where the tokenizer has more tokens than the weights of continue_training "
        "have rows, or vocab_size is larger, add rows to embedding and head, which begin as random "
        "weights do. false makes that an error.",
    )
    num_hidden_layers: Integer | None = Field(
        None, gt=0, description="Depth in place of the published one, for tests and benchmarks."
    )
    vocab_size: Integer | None = Field(
        None, gt=0, description="Vocabulary size in place of the published one."
    )
    hidden_size: Integer | None = Field(
        None, gt=0, description="Hidden size in place of the published one."
    )
    intermediate_size: Integer | None = Field(
        None, gt=0, description="Width of the feed-forward layer in place of the published one."
    )
    num_attention_heads: Integer | None = Field(
        None, gt=0, description="Number of attention heads in place of the published one."
    )
    initializer_range: Number | None = Field(
        None,
        gt=0,
        description="Standard deviation of the random weights in place of the published one.",
    )
    hidden_dropout_prob: Number | None = Field(
        None,
        ge=0,
        lt=1,
        description="Dropout of embeddings and residual branches in place of the published one, "
        "for GPT and OPT (which has none of embeddings).",
    )
    attention_probs_dropout_prob: Number | None = Field(
        None,
        ge=0,
        lt=1,
        description="Dropout of attention probabilities in place of the published one, for GPT "
        "and OPT.",
    )
    fuse_attention_qkv: Flag | None = Field(
        None,
        description="Keep query, key and value projections in one weight; null leaves the model's "
        "own setting.",
    )
    fuse_attention_ffn: Flag | None = Field(
        None,
        description="Keep gate and up projections in one weight; null leaves the model's own "
        "setting.",
    )


class DataArguments(Arguments):
    """Data: where the tokens are and how they are cut into samples."""

    input_dir: DataPath | None = Field(
        None,
        description="Directory with the .bin/.idx files, 'weight1 prefix1 weight2 prefix2 …', or a "
        "blend.yaml with names, paths, and weights or epochs.",
    )
    data_stages: DataStages | None = Field(
        None,
        description="[{until: tokens, blend: data}, …] in place of input_dir: until so many tokens "
        "of the run, training reads that blend, which is written as input_dir is. The last goes on "
        "to the end.",
    )
    eval_data: NamedData | None = Field(
        None,
        description="`{name: data, …}`: validation sets, each written as input_dir is and "
        "evaluated by itself, in place of the validation split of input_dir.",
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
