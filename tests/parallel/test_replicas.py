"""Which of the ranks that should hold the same is wrong."""

from __future__ import annotations

from llm_pretrain.parallel.sharding.replicas import verdict, without_gathered

GOOD, BAD = 1, 2


def test_of_three_the_odd_one_is_wrong() -> None:
    ranks = [{"0/0/*/0/weights": GOOD, "0/0/0/0/moment1": GOOD} for _ in range(3)]
    assert verdict(ranks) == ({}, {})
    ranks[1]["0/0/*/0/weights"] = BAD
    assert verdict(ranks) == ({1: ["0/0/*/0/weights"]}, {})


def test_two_that_differ_are_both_suspected() -> None:
    key = "0/0/0/2/moment2"
    assert verdict([{key: GOOD}, {key: BAD}]) == ({}, {key: [0, 1]})


def test_ranks_with_other_parts_of_the_model_are_not_compared() -> None:
    assert verdict([{"0/0/*/0/weights": GOOD}, {"0/1/*/0/weights": BAD}]) == ({}, {})


def test_who_gathered_a_wrong_shard_is_not_accused() -> None:
    """Three data ranks by two sharding ranks: the shard of rank 2 is wrong, and rank 3 has it."""
    ranks = [{"0/0/*/0/weights": GOOD, f"0/0/{rank % 2}/0/master": GOOD} for rank in range(6)]
    ranks[2] = {"0/0/*/0/weights": BAD, "0/0/0/0/master": BAD}
    ranks[3]["0/0/*/0/weights"] = BAD
    assert verdict(ranks) == ({2: ["0/0/0/0/master"]}, {})
    assert without_gathered(["0/0/*/0/weights"]) == ["0/0/*/0/weights"]
