"""What `llm-pretrain check` says about the data; nothing is built or written."""

from __future__ import annotations

from llm_pretrain.config.data_arguments import DataArguments
from llm_pretrain.data.blend import samples_asked
from llm_pretrain.data.build import (
    SampleCounts,
    cache_folders,
    check_splits,
    token_range_description,
    tokens_in,
    train_tokens,
)
from llm_pretrain.data.cache import IndexCache
from llm_pretrain.data.find_data import find_data, open_data
from llm_pretrain.data.shares import check_epochs, describe_shares, shares_of
from llm_pretrain.data.split import split_documents
from llm_pretrain.data.token_data import TokenData
from llm_pretrain.data.token_range import check_token_range, needs_scan, scan_token_range

# Data up to this size is scanned for its largest id at once; beyond, training does it.
_SCAN_BYTES = 1 << 30


def describe_data(
    data: DataArguments,
    *,
    counts: SampleCounts | None = None,
    vocab_size: int | None = None,
) -> list[str]:
    """Lines on the files, their documents, tokens and token type, and on the splits.

    With `counts` the wanted splits are checked, and the lines say how many epochs they take; with
    `vocab_size` the token ids are checked. Raises DataError as `build_datasets` would.
    """
    inputs = find_data(data.input_dir)
    opened = [open_data(prefix) for prefix in inputs.prefixes]
    in_training = [train_tokens(data, tokens) for tokens in opened]
    shares = shares_of(inputs, in_training)
    if counts is not None:
        check_epochs(inputs, in_training, sequence_length=data.max_seq_length, samples=counts.train)
    lines = [*inputs.notices, *describe_shares(inputs, shares)]
    for tokens, share in zip(opened, shares, strict=True):
        wanted = (counts or SampleCounts()).by_split()
        if inputs.weights is not None:
            lines.append(f"{share:.4%} of the samples are from:")
            wanted = {name: n and samples_asked(n, share) for name, n in wanted.items()}
        check_splits(data, tokens, wanted)
        lines.append(_summary(tokens))
        lines.extend(_splits(data, tokens, wanted))
        if vocab_size is not None:
            lines.append(_ids(data, tokens, vocab_size))
        lines.extend(tokens.notices)
    return lines


def _summary(tokens: TokenData) -> str:
    names = ", ".join(str(path) for path in sorted(tokens.files))
    sequences = len(tokens.sizes)
    cut = "" if sequences == tokens.documents else f" in {sequences:,} sequences"
    masked = "" if tokens.mask is None else ", with a loss mask"
    return (
        f"{names}: {tokens.documents:,} documents{cut}, {tokens.token_count:,} tokens of type "
        f"{tokens.tokens.dtype.name}{masked}"
    )


def _splits(data: DataArguments, tokens: TokenData, wanted: dict[str, int]) -> list[str]:
    lines = []
    unit = "documents" if len(tokens.sizes) == tokens.documents else "sequences"
    for name, documents in split_documents(data.split, len(tokens.sizes)).items():
        count = tokens_in(tokens, documents)
        line = f"  {name}: {len(documents):,} {unit}, {count:,} tokens"
        if wanted[name]:
            epochs = wanted[name] * data.max_seq_length / count
            line += f"; {wanted[name]:,} samples are {epochs:.2f} epochs"
        lines.append(line)
    return lines


def _ids(data: DataArguments, tokens: TokenData, vocab_size: int) -> str:
    if not needs_scan(tokens, vocab_size):
        return f"  token ids: all below {vocab_size:,}, by their type"
    cache = IndexCache(cache_folders(data, tokens.prefix), builder=False, timeout_s=0)
    known = cache.find(token_range_description(tokens))
    if known is None and tokens.tokens.nbytes > _SCAN_BYTES:
        return f"  token ids: not looked at yet; training checks them against {vocab_size:,}"
    token_range = scan_token_range(tokens) if known is None else known["token_range"]
    check_token_range(tokens, token_range, vocab_size)
    return f"  token ids: {token_range[0]} to {token_range[1]}, vocabulary {vocab_size:,}"
