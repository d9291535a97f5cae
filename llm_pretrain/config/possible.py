"""What would be possible in place of a value that is not, as error messages say it."""

from __future__ import annotations

from collections.abc import Iterable


def divisors(number: int) -> list[int]:
    """All divisors of a positive `number`, in ascending order."""
    small = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)})


def nearest(value: int, choices: Iterable[int]) -> list[int]:
    """The greatest of `choices` up to `value` and the least from there on, where there are such."""
    ordered = sorted(choices)
    below = [choice for choice in ordered if choice <= value][-1:]
    above = [choice for choice in ordered if choice >= value][:1]
    return sorted({*below, *above})


def nearest_multiples(value: int, factor: int) -> list[int]:
    """The positive multiples of `factor` around `value`."""
    below = value // factor * factor
    return [multiple for multiple in (below, below + factor) if multiple > 0]


def either(choices: Iterable[int]) -> str:
    """`1, 2 or 4`."""
    *others, last = map(str, choices)
    return f"{', '.join(others)} or {last}" if others else last
