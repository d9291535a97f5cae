"""Which attention heads a rank of the tensor-parallel group computes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from llm_pretrain.parallel import topology


@dataclass(frozen=True)
class LocalHeads:
    """This rank's query heads, one after another, and the key and value heads they attend to.

    Where the degree does not divide the key and value heads, neighbouring ranks compute the same
    ones, from weights that every rank holds whole.
    """

    first_query: int
    first_key: int
    queries_of_key: tuple[int, ...]
    """How many of this rank's query heads attend to each of its key heads, one after another."""
    keys_are_split: bool
    """Whether every key head is computed by one rank alone."""

    @property
    def queries(self) -> int:
        return sum(self.queries_of_key)

    @property
    def keys(self) -> int:
        return len(self.queries_of_key)

    def repeats(self, parts: int) -> tuple[int, ...]:
        """How often each key head must stand for all of them to serve equally many query heads.

        None of them then serves query heads of two of `parts` equal parts, and as few are repeated
        as that allows.
        """
        served = math.gcd(self.queries // parts, *self.queries_of_key)
        return tuple(queries // served for queries in self.queries_of_key)


def local_heads(query_heads: int, key_heads: int) -> LocalHeads:
    """The heads of this rank; `query_heads` is a multiple of the degree and of `key_heads`."""
    layout = topology.current()
    degree, rank = layout.degrees.tensor, layout.tensor_rank
    assert query_heads % degree == 0, f"{query_heads} heads over {degree} ranks"
    queries, group = query_heads // degree, query_heads // key_heads
    first, end = rank * queries, (rank + 1) * queries
    first_key, end_key = first // group, -(-end // group)
    queries_of_key = tuple(
        min((key + 1) * group, end) - max(key * group, first) for key in range(first_key, end_key)
    )
    return LocalHeads(first, first_key, queries_of_key, key_heads % degree == 0)
