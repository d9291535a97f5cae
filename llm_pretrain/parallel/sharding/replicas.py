"""What several ranks hold alike, bit for bit, and whether they do."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import paddle
from paddle import Tensor

from llm_pretrain.ops import internals
from llm_pretrain.parallel.comm import collectives
from llm_pretrain.parallel.comm.topology import Topology
from llm_pretrain.parallel.sharding.optimizer import ShardedAdamW

_ALL = "*"
"""In a key, in place of a sharding rank: all of them."""


class Held(NamedTuple):
    """A flat tensor of a bucket that this rank holds."""

    bucket: int
    kind: str
    """"weights", "master", "moment1", "moment2" or "gradient"."""
    tensor: Tensor
    is_whole: bool
    """Whether all sharding ranks hold the same, and not a shard each."""


def held_values(optimizer: ShardedAdamW, *, gradients: Sequence[Tensor] = ()) -> list[Held]:
    """All that this rank holds from step to step; shards of reduced gradients, where given, too."""
    return list(_held_values(optimizer, gradients))


def _held_values(optimizer: ShardedAdamW, gradients: Sequence[Tensor]) -> Iterator[Held]:
    is_sharded = not collectives.is_alone(optimizer.topology.sharding_group)
    for number, (bucket, tensors) in enumerate(optimizer.state()):
        flat = bucket.weights.flat  # None at stage 3, where masters are all
        master = tensors.pop("master")
        if flat is not None:
            yield Held(number, "weights", flat, is_whole=True)
        if flat is None or flat.dtype != paddle.float32 or is_sharded:
            yield Held(number, "master", master, is_whole=False)
        for kind, tensor in tensors.items():
            yield Held(number, kind, tensor, is_whole=False)
    for number, gradient in enumerate(gradients):
        yield Held(number, "gradient", gradient, is_whole=False)


def have_replicas(topology: Topology) -> bool:
    """Whether some ranks hold the same values by the layout."""
    return not (
        collectives.is_alone(topology.replica_group)
        and collectives.is_alone(topology.sharding_group)
    )


def differences(held: Sequence[Held], sums: Tensor, topology: Topology) -> Tensor:
    """Whether any ranks of the job that hold the same values have other sums, float32 [1]: 0 or 1.

    Args:
        sums: of the bits of `held`, int64 [values].
    """
    differ = paddle.zeros([1], "float32")
    whole = [number for number, value in enumerate(held) if value.is_whole]
    compared = [(sums, topology.replica_group)]
    if whole:
        of_whole = paddle.concat([internals.view(sums, each, each + 1) for each in whole])
        compared.append((of_whole, topology.sharding_group))
    for own, group in compared:
        if not collectives.is_alone(group):
            rows = collectives.all_gather(own, group).reshape([group.nranks, -1])
            other = (rows != rows[:1]).any().astype("float32").reshape([1])
            differ = paddle.maximum(differ, other)
    return collectives.all_reduce_world(differ, "max")


def keyed_sums(held: Sequence[Held], sums: Sequence[int], topology: Topology) -> dict[str, int]:
    """Each sum by what it is of; ranks that hold the same have the same keys."""
    keys = (
        f"{topology.pipeline_rank}/{topology.tensor_rank}/"
        f"{_ALL if value.is_whole else topology.sharding_rank}/{value.bucket}/{value.kind}"
        for value in held
    )
    return dict(zip(keys, sums, strict=True))


def without_gathered(keys: Collection[str]) -> list[str]:
    """Of wrong values by their keys those that are wrong by themselves.

    A wrong shard goes with the next gathering to the whole weights of all its sharding ranks.
    Where any shards are wrong, therefore, whole weights accuse nobody.
    """
    return [key for key in keys if _ALL not in key] or list(keys)


class Verdict(NamedTuple):
    """Which ranks hold other values than those that should hold the same."""

    odd: dict[int, list[str]]
    """The keys of the values that a rank is alone with, against a majority, by rank."""
    undecided: dict[str, list[int]]
    """The ranks that differ without a majority, by key."""


def verdict(ranks: Sequence[Mapping[str, int]]) -> Verdict:
    """Compare what all ranks have found, each sum by its key, in the order of the ranks."""
    holders: dict[str, dict[int, int]] = defaultdict(dict)
    for rank, sums in enumerate(ranks):
        for key, total in sums.items():
            holders[key][rank] = total
    differing = {key: found for key, found in holders.items() if len(set(found.values())) > 1}
    result = Verdict(defaultdict(list), {})
    for key in without_gathered(differing):
        found = differing[key]
        common, votes = Counter(found.values()).most_common(1)[0]
        if 2 * votes > len(found):
            for rank, total in found.items():
                if total != common:
                    result.odd[rank].append(key)
        else:
            result.undecided[key] = list(found)
    return Verdict(dict(result.odd), result.undecided)
