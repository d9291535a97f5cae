"""Which ranks write to the same disk, and so what each of them writes of a checkpoint."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from llm_pretrain.parallel.comm import collectives
from llm_pretrain.parallel.comm.topology import Topology


def is_first_of_node() -> bool:
    """Whether this process is the one of its node that does what is done once per disk."""
    return os.environ.get("PADDLE_RANK_IN_NODE", "0") == "0"


class Place(NamedTuple):
    """Where a rank writes its shard, and which one that is."""

    disk: int
    """The first rank that writes there."""
    stage: int
    """Of the pipeline."""
    sharding: int
    tensor: int


class Share(NamedTuple):
    """What one rank writes."""

    is_first_of_disk: bool
    writes_shard: bool
    """Whether no rank before it writes the same to its disk."""
    has_stage: bool
    """Whether all shards of its stage come to the disk of the rank that writes the weights of
    that stage."""


def share_of(rank: int, places: Sequence[Place]) -> Share:
    """What `rank` writes, with the places of all ranks, in their order."""
    own = places[rank]
    stage = [place for place in places if place.stage == own.stage]
    writer = next(place for place in stage if place.sharding == place.tensor == 0)
    there = {place[2:] for place in stage if place.disk == writer.disk}
    return Share(
        own.disk == rank, own not in places[:rank], there == {place[2:] for place in stage}
    )


def own_share(folder: Path, topology: Topology) -> Share:
    """What this rank writes below `folder`; all ranks call it at the same time.

    They find out who shares a disk with whom by files that they make for a moment.
    """
    if topology.world_size == 1:
        return Share(True, True, True)
    is_making = is_first_of_node()
    mark = _mark(folder, topology.rank)
    if is_making:
        folder.mkdir(parents=True, exist_ok=True)
        mark.touch()
    made = collectives.gather_texts("made" if is_making else "")
    ranks = [rank for rank, text in enumerate(made) if text]
    disk = next((rank for rank in ranks if _mark(folder, rank).exists()), topology.rank)
    place = disk, topology.pipeline_rank, topology.sharding_rank, topology.tensor_rank
    places = [Place(*json.loads(text)) for text in collectives.gather_texts(json.dumps(place))]
    if is_making:
        mark.unlink(missing_ok=True)
    return share_of(topology.rank, places)


def _mark(folder: Path, rank: int) -> Path:
    return folder / f".disk-of-rank-{rank}"
