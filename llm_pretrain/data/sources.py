"""The data of a run, opened: its files, what training has of each, and their shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llm_pretrain.config import DataArguments
from llm_pretrain.data.blend import blend_order
from llm_pretrain.data.find_data import Inputs, find_data, open_data
from llm_pretrain.data.shares import shares_of
from llm_pretrain.data.split import split_documents
from llm_pretrain.data.token_data import TokenData

# Notices of single files: with thousands of files nobody would read them all.
_MOST_NOTICES = 12


@dataclass(frozen=True)
class Sources:
    data: DataArguments
    inputs: Inputs
    files: tuple[TokenData, ...]
    train_tokens: tuple[int, ...]
    """Tokens in the training split of each file."""
    shares: tuple[float, ...]
    """Of the samples of every split, those that are from each file; they add up to 1."""

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


def open_sources(data: DataArguments) -> Sources:
    """Find and open what `input_dir` names. Raises DataError as `build_datasets` would."""
    inputs = find_data(data.input_dir)
    files = tuple(map(open_data, inputs.prefixes))
    in_training = tuple(
        tokens_in(tokens, split_documents(data.split, len(tokens.sizes))["train"])
        for tokens in files
    )
    return Sources(data, inputs, files, in_training, tuple(shares_of(inputs, in_training)))


def tokens_in(tokens: TokenData, documents: range) -> int:
    return int(tokens.sizes[documents.start : documents.stop].sum(dtype="int64"))


def epochs_text(epochs: float) -> str:
    return f"{epochs:.2f}" if epochs >= 0.1 else f"{epochs:.2g}"


def lone_validation(sources: Sources, samples: int) -> list[str]:
    """What a user should know whose validation set holds a single one of several sources."""
    names = sources.names
    if samples == 0 or len(set(names)) == 1:
        return []
    chosen = {names[number] for number in np.unique(blend_order(sources.shares, samples)[0])}
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
