"""Which attention heads a rank of the tensor-parallel group computes."""

from __future__ import annotations

from dataclasses import dataclass

from llm_pretrain.parallel import topology


@dataclass(frozen=True)
class LocalHeads:
    """This rank's query heads [first, end), and the key and value heads that they attend to.

    Where the degree does not divide the key and value heads, neighbouring ranks compute the same
    ones, from weights that every rank holds whole.
    """

    first_query: int
    queries: int
    first_key: int
    keys: int
    keys_are_split: bool
    """Whether every key head is computed by one rank alone."""
    key_of_query: tuple[int, ...] | None
    """The local key head of every local query head, where groups of queries are unequal."""


def local_heads(query_heads: int, key_heads: int) -> LocalHeads:
    """The heads of this rank; `query_heads` is a multiple of the degree and of `key_heads`."""
    layout = topology.current()
    degree, rank = layout.degrees.tensor, layout.tensor_rank
    assert query_heads % degree == 0, f"{query_heads} heads over {degree} ranks"
    queries, group = query_heads // degree, query_heads // key_heads
    first = rank * queries
    first_key, last_key = first // group, (first + queries - 1) // group
    keys = last_key - first_key + 1
    key_of_query = tuple(query // group - first_key for query in range(first, first + queries))
    is_even = all(key == i * keys // queries for i, key in enumerate(key_of_query))
    return LocalHeads(
        first, queries, first_key, keys, key_heads % degree == 0, None if is_even else key_of_query
    )
