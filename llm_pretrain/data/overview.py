"""What `llm-pretrain check` says about the data; nothing is built or written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from llm_pretrain.data.blend import samples_asked
from llm_pretrain.data.build import (
    SampleCounts,
    cache_folders,
    check_splits,
    token_range_description,
)
from llm_pretrain.data.cache import IndexCache
from llm_pretrain.data.sources import (
    SPLITS,
    Sources,
    check_epochs,
    describe_stages,
    epochs_text,
    split_documents,
    tokens_in,
)
from llm_pretrain.data.token_data import DataError, check_token_range, needs_scan, scan_token_range
from llm_pretrain.machine.language import translated
from llm_pretrain.machine.terminal import columns_of, rjust

# Data up to this size is scanned for its largest id at once; beyond, training does it.
_SCAN_BYTES = 1 << 30
# Sources that a screen has room for, beside the rest of the section.
_MOST_SOURCES = 20
_LEAST_NAME = 12
# Of single files: they tend to be of one kind.
_MOST_PROBLEMS = 4


def describe_data(
    sources: Sources,
    *,
    counts: SampleCounts | None = None,
    columns: int = 80,
    everything: bool = True,
) -> list[str]:
    """Lines on documents, tokens and token type, on the splits, and on each of several sources, in
    the reader's language.

    With `counts` they say how many epochs training and evaluation take. `everything`: every file
    has a row, whose name is whole; otherwise some sources have one, cut to `columns`.
    """
    counts = counts or SampleCounts()
    lines = [translated(line) for line in (_summary(sources), *describe_stages(sources))]
    lines += _splits(sources, counts)
    if len(sources.files) > 1:
        lines += _by_source(sources, counts, columns, everything=everything)
    return lines


def data_problems(sources: Sources, counts: SampleCounts) -> list[str]:
    """Why the data can't give the samples: what `build_datasets` would raise, of every file."""
    data = sources.data
    problems = []
    try:
        check_epochs(sources, counts.train)
    except DataError as error:
        problems.append(str(error))
    blended = sources.inputs.weights is not None
    of_files = []
    for tokens, share in zip(sources.files, sources.shares, strict=True):
        wanted = counts.by_split()
        if blended:
            wanted = {name: n and samples_asked(n, share) for name, n in wanted.items()}
        try:
            check_splits(data, tokens, wanted)
        except DataError as error:
            of_files.append(str(error))
    problems += of_files[:_MOST_PROBLEMS]
    if len(of_files) > _MOST_PROBLEMS:
        problems.append(
            f"{len(of_files):,} of {len(sources.files):,} files can't give their samples; these "
            f"were the first {_MOST_PROBLEMS}"
        )
    return problems


def _summary(sources: Sources) -> str:
    files = sources.files
    folders = {tokens.prefix.parent for tokens in files}
    if len(files) == 1:
        name = str(files[0].files[1])
    else:
        folder = f" in {folders.pop()}" if len(folders) == 1 else ""
        name = f"{len(files):,} files{folder}"
    documents = sum(tokens.documents for tokens in files)
    sequences = sum(len(tokens.sizes) for tokens in files)
    cut = "" if sequences == documents else f" in {sequences:,} sequences"
    types = ", ".join(sorted({tokens.tokens.dtype.name for tokens in files}))
    masked = sum(tokens.mask is not None for tokens in files)
    of_files = "" if masked == len(files) else f" of {masked:,} files"
    mask = f", with a loss mask{of_files}" if masked else ""
    count = sum(tokens.token_count for tokens in files)
    return f"{name}: {documents:,} documents{cut}, {count:,} tokens of type {types}{mask}"


def _unit(sources: Sources) -> str:
    """What the splits share out."""
    is_cut = any(len(tokens.sizes) != tokens.documents for tokens in sources.files)
    return "sequences" if is_cut else "documents"


def _splits(sources: Sources, counts: SampleCounts) -> list[str]:
    length = sources.data.max_seq_length
    splits = [split_documents(sources.data.split, len(tokens.sizes)) for tokens in sources.files]
    rows = [_heads(f"{_unit(sources)}  tokens  samples  epochs  split")]
    for name in SPLITS:
        parts = [split[name] for split in splits]
        count = sum(map(tokens_in, sources.files, parts))
        wanted = counts.by_split()[name]
        epochs = epochs_text(wanted * length / count) if wanted and count else "-"
        rows.append([f"{sum(map(len, parts)):,}", f"{count:,}", f"{wanted:,}", epochs, name])
    return list(_table(rows))


def _by_source(
    sources: Sources, counts: SampleCounts, columns: int, *, everything: bool
) -> Iterator[str]:
    names = sources.names
    if everything and sources.inputs.entries is not None:
        paths = (tokens.prefix for tokens in sources.files)
        names = [f"{name}: {path}" for name, path in zip(names, paths, strict=True)]
    members: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        members.setdefault(name, []).append(number)
    taken = counts.train * sources.data.max_seq_length
    found = []
    for name, numbers in members.items():
        files = [sources.files[number] for number in numbers]
        share = sum(sources.shares[number] for number in numbers)
        in_training = sum(sources.train_tokens[number] for number in numbers)
        epochs = taken * share / in_training if in_training else 0.0
        documents = sum(tokens.documents for tokens in files)
        count = sum(tokens.token_count for tokens in files)
        row = [
            f"{documents:,}",
            f"{count:,}",
            f"{share:.2%}",
            epochs_text(epochs) if taken else "-",
        ]
        found.append((epochs, [*row, name]))
    is_cut = not everything and len(found) > _MOST_SOURCES
    if is_cut:
        found = sorted(found, key=lambda source: -source[0])[:_MOST_SOURCES]
    rows = [_heads("documents  tokens  share  epochs  source"), *(row for _, row in found)]
    for line, (*_, name) in zip(_table(rows), rows, strict=True):
        room = max(columns - columns_of(line) + len(name), _LEAST_NAME)
        if everything or len(name) <= room:
            yield line
        else:
            yield f"{line[: -len(name)]}…{name[1 - room :]}"
    if is_cut:
        which = "those that training repeats most" if taken else "the first"
        rest = f"{_MOST_SOURCES} of {len(members):,} sources, {which}; --verbose shows all"
        yield translated(rest)


def _heads(line: str) -> list[str]:
    return translated(line).split("  ")


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns of numbers, then one of names."""
    widths = [max(map(columns_of, column)) for column in list(zip(*rows, strict=True))[:-1]]
    for *numbers, name in rows:
        yield "  ".join((*map(rjust, numbers, widths), name))


def describe_ids(sources: Sources, vocab_size: int) -> Iterator[str]:
    """What the token ids are. Raises DataError where one is beyond the vocabulary."""
    read: list[NDArray] = []
    unread, left = 0, _SCAN_BYTES
    for tokens in sources.files:
        if not needs_scan(tokens, vocab_size):
            continue
        folders = cache_folders(sources.data, tokens.prefix)
        cache = IndexCache(folders, builder=False, timeout_s=0)
        known = cache.find(token_range_description(tokens))
        if known is not None:
            token_range = known["token_range"]
        elif tokens.tokens.nbytes > left:
            unread += 1
            continue
        else:
            left -= tokens.tokens.nbytes
            token_range = scan_token_range(tokens)
        check_token_range(tokens, token_range, vocab_size)
        read.append(token_range)
    if read:
        low, high = np.min(read, axis=0)[0], np.max(read, axis=0)[1]
        yield f"token ids: {low} to {high}, vocabulary {vocab_size:,}"
    elif not unread:
        yield f"token ids: all below {vocab_size:,}, by their type"
    if unread:
        what = "token ids" if len(sources.files) == 1 else f"token ids of {unread:,} files"
        yield f"{what}: not looked at yet; training checks them against {vocab_size:,}"
