"""How large a share of the samples each file of a blend has."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from llm_pretrain.data.blend import normalized
from llm_pretrain.data.blend_file import Entry
from llm_pretrain.data.errors import DataError
from llm_pretrain.data.find_data import Inputs

# As many names as a line of the log holds.
_MOST_NAMES = 20


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


def check_epochs(
    inputs: Inputs, tokens: Sequence[int], *, sequence_length: int, samples: int
) -> None:
    """Raise DataError where training takes more samples than the epochs of the blend give."""
    if inputs.entries is None or inputs.entries[0].epochs is None:
        return
    given = sum(
        round(entry.amount * (max(count - 1, 0) // sequence_length))
        for entry, count in zip(inputs.entries, tokens, strict=True)
    )
    if samples > given:
        raise DataError(
            f"Training takes {samples:,} samples, but the epochs in the blend file give only "
            f"{given:,}: raise the epochs, or lower max_steps to {given / samples:.2%} of what it "
            "is now."
        )


def describe_shares(inputs: Inputs, shares: Sequence[float]) -> list[str]:
    """A line with the names of a blend file and their shares; none for other inputs."""
    if inputs.entries is None:
        return []
    by_name: defaultdict[str, float] = defaultdict(float)
    epochs = {}
    for entry, share in zip(inputs.entries, shares, strict=True):
        by_name[entry.name] += share
        if entry.epochs is not None:
            epochs[entry.name] = f" ({entry.epochs:g} epochs)"
    parts = [f"{name} {share:.4%}{epochs.get(name, '')}" for name, share in by_name.items()]
    more = len(parts) - _MOST_NAMES
    if more > 0:
        parts = [*parts[:_MOST_NAMES], f"and {more} more"]
    return [f"Blend: {', '.join(parts)}"]
