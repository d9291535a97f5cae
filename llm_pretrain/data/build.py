"""From the data arguments to the datasets of training, validation and test."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from llm_pretrain.config import DataArguments
from llm_pretrain.config.model_config import BlankInfilling
from llm_pretrain.data.blanks import SamplesWithBlanks
from llm_pretrain.data.blend import (
    BlendedSamples,
    Order,
    kept_order,
    reaching_all,
    samples_asked,
)
from llm_pretrain.data.cache import IndexCache, Wanted, read_paddlenlp_index
from llm_pretrain.data.sample_index import ARRAYS, SampleIndex, build_sample_index
from llm_pretrain.data.samples import Dataset, IndexedSamples, Isolation, SamplesOfDocuments, Texts
from llm_pretrain.data.sources import (
    SPLITS,
    Sources,
    check_epochs,
    check_wanted,
    describe_shares,
    describe_stages,
    first_notices,
    lone_validation,
    named_validation,
    of_named_set,
    open_sources,
    split_documents,
    tokens_in,
)
from llm_pretrain.data.stages import SamplesByEpoch, order_of_stages
from llm_pretrain.data.token_data import (
    DataError,
    TokenData,
    check_token_range,
    needs_scan,
    scan_token_range,
)

# Part of every cache key: to be raised when the same description would give other arrays.
_FORMAT = 1
# Of more files than this, what is made as fast as it is found in the cache isn't kept there: its
# files would be most of what a start waits for.
_MANY_FILES = 256
_SMALL_INDEX = 1000
_SMALL_DATA_BYTES = 1 << 20


@dataclass(frozen=True)
class SampleCounts:
    """Samples wanted of each split by all ranks together; 0: the split is not used."""

    train: int = 0
    valid: int = 0
    test: int = 0
    stages: tuple[int, ...] = ()
    """Of each of `data_stages`, over the whole run; together they are those of training."""

    def by_split(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in SPLITS}


@dataclass(frozen=True)
class Datasets:
    """None where no samples were wanted."""

    train: Dataset | None
    valid: Dataset | None
    test: Dataset | None
    notices: tuple[str, ...] = field(default=())
    """What the user should know about the data, one line each."""
    named_valid: Mapping[str, Dataset] = field(default_factory=dict)
    """Of `eval_data`; then there is no `valid`."""
    samples_asked: int = 0
    """Of `train`, for which the order is computed; the dataset may have more."""


def build_datasets(
    data: DataArguments,
    counts: SampleCounts,
    *,
    seed: int,
    builder: bool,
    timeout_s: float = 60,
    vocab_size: int | None,
    blanks: BlankInfilling | None = None,
    end_tokens: Collection[int] = (),
    sources: Sources | None = None,
) -> Datasets:
    """Open the data and build, or find, the index of every wanted split.

    `builder`: this process writes to the index cache what is missing there; all others call this
    afterwards, and on a disk of the network wait `timeout_s` seconds for an index to come in sight.
    `vocab_size`: rows of the model's embedding, against which the token ids are checked; None
    leaves that out. `blanks`: for a model that fills blanks in the text, instead of continuing it.
    `end_tokens`: ids of which each ends a document, needed where `data` wants documents kept apart.
    `sources`: what `open_sources` gave, if it was called before.

    Raises DataError for whatever is wrong with the data.
    """
    if data.eval_data and counts.valid:
        build = partial(
            build_datasets,
            seed=seed,
            builder=builder,
            timeout_s=timeout_s,
            vocab_size=vocab_size,
            blanks=blanks,
            end_tokens=end_tokens,
        )
        datasets = build(data, replace(counts, valid=0), sources=sources)
        notices, named = list(datasets.notices), {}
        for name, part in named_validation(data).items():
            try:
                opened = open_sources(part, argument=f"eval_data {name}")
                built = build(part, SampleCounts(valid=counts.valid), sources=opened)
            except DataError as error:
                raise DataError(of_named_set(name, str(error))) from error
            assert built.valid is not None
            named[name] = built.valid
            new = [line for line in built.notices if line not in notices]
            notices += [of_named_set(name, line) for line in new]
        return replace(datasets, named_valid=named, notices=tuple(notices))
    sources = sources or open_sources(data, counts.stages)
    inputs, shares = sources.inputs, sources.shares
    blended = inputs.weights is not None
    check_epochs(sources, counts.train)

    def cache_of(prefix: Path) -> IndexCache:
        return IndexCache(cache_folders(data, prefix), builder=builder, timeout_s=timeout_s)

    staged: Order | None = None
    if sources.stages and counts.train:
        staged = order_of_stages(sources.stages, len(shares), cache_of(inputs.prefixes[0]))
        taken = np.bincount(staged[0], minlength=len(shares))
    parts: dict[str, list[Texts]] = {name: [] for name in SPLITS}
    notices = [
        *inputs.notices,
        *describe_stages(sources),
        *describe_shares(inputs, shares),
        *lone_validation(sources, counts.valid),
    ]
    if blanks is not None:
        notices.append("Every sample is a text with blanks that the model fills (docs/data.md).")
    isolation = None
    if data.reset_attention_mask or data.reset_position_ids:
        isolation = Isolation(
            tuple(end_tokens),
            apart=data.reset_attention_mask,
            counted_anew=data.reset_position_ids,
        )
        ids = " or ".join(map(str, end_tokens))
        notices.append(f"A document in a sample ends with the token {ids} (docs/data.md).")
    of_files: list[str] = []
    for number, (tokens, share) in enumerate(zip(sources.files, shares, strict=True)):
        wanted = {
            name: samples_asked(samples, share) if blended and samples else samples
            for name, samples in counts.by_split().items()
        }
        prefix = _Prefix(
            data,
            tokens,
            inputs.written[number],
            seed,
            one_of_many=len(shares) > _MANY_FILES,
            cache=cache_of(tokens.prefix),
        )
        if staged is not None:
            wanted["train"] = 0
            parts["train"].append(prefix.build_by_epoch(max(int(taken[number]), 1)))
        for name, dataset in prefix.build(wanted, vocab_size).items():
            parts[name].append(dataset)
        of_files.extend((*tokens.notices, *prefix.notices))
    notices.extend(first_notices(of_files))

    def joined(name: str) -> Dataset | None:
        if not parts[name]:
            return None
        texts = parts[name][0]
        if name == "train" and staged is not None:
            texts = BlendedSamples(parts[name], staged)
        elif blended:
            order = kept_order(shares, counts.by_split()[name], cache_of(inputs.prefixes[0]))
            if name != "train":
                order = reaching_all(order, shares)
            texts = BlendedSamples(parts[name], order)
        if blanks is not None:
            return SamplesWithBlanks(texts, blanks, seed, isolation)
        return texts if isolation is None else SamplesOfDocuments(texts, isolation)

    return Datasets(joined("train"), joined("valid"), joined("test"), tuple(notices))


def check_splits(data: DataArguments, tokens: TokenData, wanted: Mapping[str, int]) -> None:
    """Raise DataError where a wanted split has no document or less than one sample."""
    ranges = split_documents(data.split, len(tokens.sizes))
    check_wanted(data.split, ranges, wanted, str(tokens.prefix))
    for name, samples in wanted.items():
        if samples == 0:
            continue
        count = tokens_in(tokens, ranges[name])
        if count <= data.max_seq_length:
            is_whole = len(ranges[name]) == len(tokens.sizes)
            part = "all" if is_whole else f"the {name} split"
            share = "" if is_whole else f", give {name} a larger share in split,"
            raise DataError(
                f"max_seq_length is {data.max_seq_length}, so a sample takes "
                f"{data.max_seq_length + 1} tokens, but {part} of {tokens.prefix} has only "
                f"{count}. Add data{share} or lower max_seq_length."
            )


def cache_folders(data: DataArguments, prefix: Path) -> tuple[Path, ...]:
    """Where indices are looked for, in order; the last is where new ones go."""
    beside = prefix.parent / "index-cache"
    return (beside,) if data.data_cache is None else (beside, Path(data.data_cache))


def token_range_description(tokens: TokenData) -> str:
    """The cache entry that holds the smallest and the largest token id."""
    return _describe("token range", tokens, {})


@dataclass
class _Prefix:
    """One prefix and its place in the cache."""

    data: DataArguments
    tokens: TokenData
    written: str
    """The prefix as `Inputs.written` has it."""
    seed: int
    one_of_many: bool
    cache: IndexCache
    notices: list[str] = field(default_factory=list)

    def build(self, wanted: Mapping[str, int], vocab_size: int | None) -> dict[str, IndexedSamples]:
        check_splits(self.data, self.tokens, wanted)
        if vocab_size is not None:
            self._check_ids(vocab_size)
        ranges = split_documents(self.data.split, len(self.tokens.sizes))
        return {
            name: IndexedSamples(
                self.tokens,
                self._index(name, ranges[name], samples),
                self.data.max_seq_length,
            )
            for name, samples in wanted.items()
            if samples > 0
        }

    def build_by_epoch(self, samples: int) -> SamplesByEpoch:
        """As many epochs of the training split as have so many samples."""
        check_splits(self.data, self.tokens, {"train": samples})
        documents = split_documents(self.data.split, len(self.tokens.sizes))["train"]
        length = self.data.max_seq_length
        each = (tokens_in(self.tokens, documents) - 1) // length
        return SamplesByEpoch(
            [
                IndexedSamples(self.tokens, self._index("train", documents, each, epoch), length)
                for epoch in range(-(-samples // each))
            ]
        )

    def _check_ids(self, vocab_size: int) -> None:
        if not needs_scan(self.tokens, vocab_size):
            return
        if self.one_of_many and self.tokens.tokens.nbytes <= _SMALL_DATA_BYTES:
            token_range = scan_token_range(self.tokens)
        else:
            token_range = self.cache.fetch(
                token_range_description(self.tokens),
                lambda: {"token_range": scan_token_range(self.tokens)},
            )["token_range"]
        check_token_range(self.tokens, token_range, vocab_size)

    def _index(self, name: str, documents: range, samples: int, epoch: int = 0) -> SampleIndex:
        """`epoch`: which of those that have an order of their own, by another seed."""
        seed = self.seed + epoch

        def build() -> SampleIndex:
            return build_sample_index(
                self.tokens.sizes,
                documents,
                sequence_length=self.data.max_seq_length,
                samples=samples,
                seed=seed,
            )

        length = self.data.max_seq_length
        epochs = samples * length / tokens_in(self.tokens, documents)
        if (self.one_of_many or epoch) and (epochs + 1) * len(documents) + samples <= _SMALL_INDEX:
            return build()
        description = _describe(
            "sample index",
            self.tokens,
            {
                "Dataset name": name,
                "Number of samples": samples,
                "Sequence length": length,
                "Random seed": seed,
                "Split": self.data.split,
                "CRC-32 of the lengths": zlib.crc32(self.tokens.sizes.data),
            },
        )
        arrays = self.cache.find(description)
        if arrays is None:
            theirs, notices = read_paddlenlp_index(
                Wanted(
                    tokens=self.tokens,
                    written_prefix=self.written,
                    split_name=name,
                    split=self.data.split,
                    documents=documents,
                    sequence_length=length,
                    samples=samples,
                    seed=seed,
                ),
                self.cache.folders,
            )
            self.notices.extend(notices)
            if theirs is not None:
                return theirs
            arrays = self.cache.fetch(description, lambda: dict(zip(ARRAYS, build(), strict=True)))
        return SampleIndex(*(arrays[name] for name in ARRAYS))


def _describe(kind: str, tokens: TokenData, values: Mapping[str, object]) -> str:
    """Text of all that an index depends on.

    The files go in by name, size and time. Their folder does not, so that the cache moves with
    the data and serves nodes that mount it at different places.
    """
    lines = [f"llm_pretrain {kind}, format {_FORMAT}", f"Data prefix: {tokens.prefix.name}"]
    for path in tokens.files:
        stat = path.stat()
        lines.append(f"File: {path.name}, {stat.st_size} bytes, modified {stat.st_mtime_ns} ns")
    lines.extend(f"{key}: {value}" for key, value in values.items())
    return "\n".join(lines)
