"""Which documents are for training, validation and test, by PaddleNLP's rule."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from llm_pretrain.config import DataArguments
from llm_pretrain.data.errors import DataError

SPLITS = ("train", "valid", "test")


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
