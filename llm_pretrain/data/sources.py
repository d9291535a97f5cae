"""The data of a run, opened: its files, the split of each, and their shares.

PaddleNLP's rule decides which documents are for training, validation and test.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llm_pretrain.config import DataArguments
from llm_pretrain.data.blend import Entry, blend_order, normalized, reaching_all
from llm_pretrain.data.find_data import Inputs, find_data, open_data
from llm_pretrain.data.stages import Stage, find_blends, joined, shares_of_run
from llm_pretrain.data.token_data import DataError, TokenData

SPLITS = ("train", "valid", "test")
# Notices of single files: with thousands of files nobody would read them all.
_MOST_NOTICES = 12
# As many names as a line of the log holds.
_MOST_NAMES = 20


@dataclass(frozen=True)
class Sources:
    data: DataArguments
    inputs: Inputs
    """Of all stages together, where there are some."""
    files: tuple[TokenData, ...]
    train_tokens: tuple[int, ...]
    """Tokens in the training split of each file."""
    shares: tuple[float, ...]
    """Of the samples of every split, those that are from each file; they add up to 1. Where there
    are stages, those of the whole run."""
    stages: tuple[Stage, ...] = ()

    @property
    def names(self) -> list[str]:
        """Of the source that each file belongs to: the entry of a blend file, or itself."""
        if self.inputs.entries is not None:
            return [entry.name for entry in self.inputs.entries]
        paths = self.inputs.prefixes
        is_folder = len({path.parent for path in paths}) == 1
        return [path.name if is_folder else str(path) for path in paths]

    @property
    def notices(self) -> list[str]:
        """What a user should know although the data can be read."""
        of_files = [notice for tokens in self.files for notice in tokens.notices]
        return [*self.inputs.notices, *first_notices(of_files)]


def open_sources(
    data: DataArguments, stage_samples: Sequence[int] = (), argument: str = "input_dir"
) -> Sources:
    """Find and open what `input_dir` or `data_stages` names.

    `stage_samples`: of each stage, as `BatchPlan` has them; where they aren't known, all stages
    count alike. What the run does not reach must be there, but is not opened.

    Raises DataError as `build_datasets` would, which names the argument that was typed.
    """
    if not data.data_stages:
        inputs = find_data(data.input_dir, argument)
        files, tokens = _open_files(data, inputs.prefixes)
        return Sources(data, inputs, files, tokens, tuple(shares_of(inputs, tokens)))
    if not any(stage_samples):
        stage_samples = [1] * len(data.data_stages)
    blends = find_blends(data.data_stages)
    reached = [
        blend if samples else Inputs((), None, ())
        for blend, samples in zip(blends, stage_samples, strict=True)
    ]
    inputs, members = joined(reached)
    files, tokens = _open_files(data, inputs.prefixes)
    stages = []
    for stage, blend, samples, own in zip(
        data.data_stages, blends, stage_samples, members, strict=True
    ):
        shares = shares_of(blend, [tokens[file] for file in own]) if own else []
        stages.append(Stage(stage.until, samples, blend, own, tuple(shares)))
    return Sources(data, inputs, files, tokens, shares_of_run(stages, len(files)), tuple(stages))


def _open_files(
    data: DataArguments, prefixes: Sequence[Path]
) -> tuple[tuple[TokenData, ...], tuple[int, ...]]:
    """The files, and the tokens in the training split of each."""
    files = tuple(map(open_data, prefixes))
    return files, tuple(
        tokens_in(file, split_documents(data.split, len(file.sizes))["train"]) for file in files
    )


def named_validation(data: DataArguments) -> dict[str, DataArguments]:
    """The sets of `eval_data`, each as data of its own that is a validation split whole."""
    named, alone = data.eval_data or {}, {"data_stages": None, "eval_data": None}
    return {
        name: data.model_copy(update={**alone, "input_dir": path, "split": "0,1,0"})
        for name, path in named.items()
    }


def of_named_set(name: str, problem: str) -> str:
    """A sentence on a set of `eval_data`, which says so once."""
    argument = f"eval_data {name}"
    return problem if problem.startswith(argument) else f"{argument}: {problem}"


def tokens_in(tokens: TokenData, documents: range) -> int:
    return int(tokens.sizes[documents.start : documents.stop].sum(dtype="int64"))


def epochs_text(epochs: float) -> str:
    return f"{epochs:.2f}" if epochs >= 0.1 else f"{epochs:.2g}"


def lone_validation(sources: Sources, samples: int) -> list[str]:
    """What a user should know whose validation set holds a single one of several sources."""
    names = sources.names
    if samples == 0 or len(set(names)) == 1:
        return []
    order = reaching_all(blend_order(sources.shares, samples), sources.shares)
    chosen = {names[number] for number in np.unique(order[0])}
    if len(chosen) > 1:
        return []
    return [
        f"eval_iters: the {samples:,} samples of the validation set are all of {chosen.pop()}, "
        f"one of {len(set(names)):,} sources; raise eval_iters, or the weights of the others"
    ]


def first_notices(notices: Sequence[str]) -> list[str]:
    """Those of the first files, and how many more there are."""
    more = len(notices) - _MOST_NOTICES
    rest = [f"There are {more} more such notices."] if more > 0 else []
    return [*notices[:_MOST_NOTICES], *rest]


def shares_of(inputs: Inputs, tokens: Sequence[int]) -> list[float]:
    """Shares of the prefixes, which add up to 1; `tokens`: of each one's training split.

    Epochs are turned into weights: epochs × tokens. The files of a folder share its weight by
    their tokens, as if they were one file.
    """
    if inputs.weights is None:
        return [1.0]
    if inputs.entries is None:
        return normalized(inputs.weights)
    totals: defaultdict[Entry, int] = defaultdict(int)
    for entry, count in zip(inputs.entries, tokens, strict=True):
        totals[entry] += count
    weights = []
    for entry, count in zip(inputs.entries, tokens, strict=True):
        if entry.epochs is not None:
            weights.append(entry.epochs * count)
        else:
            # Exactly the weight where the entry is one file, so that the order is the one of
            # "weight prefix weight prefix …".
            weights.append(entry.amount * (count / totals[entry] if totals[entry] else 1.0))
    if not any(weights):
        raise DataError("No dataset of the blend has a token in its training split.")
    return normalized(weights)


def check_epochs(sources: Sources, samples: int) -> None:
    """Raise DataError where training takes more samples than the epochs of a blend give."""
    parts = [
        (f"Stage {number} takes", "shorten the stage", stage.inputs, stage.files, stage.samples)
        for number, stage in enumerate(sources.stages if samples else (), 1)
    ]
    every = tuple(range(len(sources.files)))
    whole = ("Training takes", "lower max_steps", sources.inputs, every, samples)
    for beginning, remedy, inputs, files, taken in parts or [whole]:
        if not taken or inputs.entries is None or inputs.entries[0].epochs is None:
            continue
        lengths = (max(sources.train_tokens[file] - 1, 0) for file in files)
        given = sum(
            round(entry.amount * (length // sources.data.max_seq_length))
            for entry, length in zip(inputs.entries, lengths, strict=True)
        )
        if taken > given:
            raise DataError(
                f"{beginning} {taken:,} samples, but the epochs in the blend file give only "
                f"{given:,}: raise the epochs, or {remedy} to {given / taken:.2%} of what it is "
                "now."
            )


def describe_shares(inputs: Inputs, shares: Sequence[float]) -> list[str]:
    """A line with the names of a blend file and their shares; none for other inputs."""
    if inputs.entries is None:
        return []
    names = [entry.name for entry in inputs.entries]
    return [f"Blend: {_named_shares(names, shares, [entry.epochs for entry in inputs.entries])}"]


def describe_stages(sources: Sources) -> list[str]:
    """A line on each stage: where it ends, its samples, and its sources with their shares."""
    lines = []
    for number, stage in enumerate(sources.stages, 1):
        end = "to the end" if stage.until is None else f"until {stage.until:,.0f} tokens"
        if stage.samples:
            names = [sources.names[file] for file in stage.files]
            epochs = [entry.epochs for entry in stage.inputs.entries or ()]
            blend = _named_shares(names, stage.shares, epochs or [None] * len(names))
            lines.append(f"Stage {number}, {end}: {stage.samples:,} samples: {blend}")
        else:
            lines.append(f"Stage {number}, {end}: the run does not reach it")
    return lines


def _named_shares(
    names: Sequence[str], shares: Sequence[float], epochs: Sequence[float | None]
) -> str:
    by_name: defaultdict[str, float] = defaultdict(float)
    suffixes = {}
    for name, share, count in zip(names, shares, epochs, strict=True):
        by_name[name] += share
        if count is not None:
            suffixes[name] = f" ({count:g} epochs)"
    parts = [f"{name} {share:.4%}{suffixes.get(name, '')}" for name, share in by_name.items()]
    more = len(parts) - _MOST_NAMES
    return ", ".join([*parts[:_MOST_NAMES], f"and {more} more"] if more > 0 else parts)


def parse_split(split: str) -> tuple[float, float, float]:
    """Shares of train, valid and test, which add up to 1.

    `split` is up to three numbers joined by "," or "/"; those left out are 0.
    """
    separator = "," if "," in split else "/"
    try:
        shares = [float(part) for part in split.split(separator)]
    except ValueError as error:
        raise DataError(
            f'split is "{split}"; it must be up to three numbers such as "949,50,1".'
        ) from error
    if len(shares) > 3 or any(not math.isfinite(share) or share < 0 for share in shares):
        raise DataError(f'split is "{split}"; it must be up to three numbers, none below 0.')
    shares += [0.0] * (3 - len(shares))
    total = sum(shares)
    if not 0 < total < math.inf:
        raise DataError(f'split is "{split}", which gives no documents to any split.')
    train, valid, test = (share / total for share in shares)
    return train, valid, test


def split_documents(split: str, documents: int) -> dict[str, range]:
    """The documents of each split, as ranges that cover [0, documents).

    Each length is the rounded share (halves go to the even number); what the three are short of
    or beyond `documents` falls to train.
    """
    boundaries = [0]
    for share in parse_split(split):
        boundaries.append(boundaries[-1] + round(share * float(documents)))
    excess = boundaries[-1] - documents
    # Only an empty train split can be pushed below 0.
    boundaries[1:] = [max(0, boundary - excess) for boundary in boundaries[1:]]
    return {
        name: range(begin, end)
        for name, begin, end in zip(SPLITS, boundaries, boundaries[1:], strict=False)
    }


def one_source_validates(names: Sequence[object], sizes: Sequence[int]) -> str | None:
    """What to say where the default split of sources in a row takes the last one alone to evaluate.

    `sizes` of the sources are in any unit that documents are in proportion to.
    """
    _, valid, test = parse_split(DataArguments.model_fields["split"].default)
    if len(sizes) < 2 or sizes[-1] < (valid + test) * sum(sizes):
        return None
    return (
        "The documents keep the order of the inputs, so that the default split validates on "
        f"{names[-1]} alone; a pair of files for each input, in one folder, gives every one its "
        "part."
    )


def check_wanted(
    split: str, ranges: Mapping[str, range], wanted: Mapping[str, int], source: str
) -> None:
    """Raise DataError where samples are wanted of a split that has no documents."""
    total = sum(len(documents) for documents in ranges.values())
    for name, samples in wanted.items():
        if samples > 0 and not ranges[name]:
            raise DataError(
                f'split "{split}" gives no document of {source} to {name}, which needs '
                f"{samples} samples: it has {total} documents. Give {name} a larger share in "
                "split, add documents, or turn off what uses it (do_train, do_eval, do_predict)."
            )
