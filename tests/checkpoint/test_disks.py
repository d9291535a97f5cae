"""Which ranks write what of a checkpoint, by the disks that they write to."""

from __future__ import annotations

from llm_pretrain.checkpoint.disks import Place, Share, share_of


def shares(*places: tuple[int, int, int, int]) -> list[Share]:
    every = [Place(*place) for place in places]
    return [share_of(rank, every) for rank in range(len(every))]


def test_on_one_disk_the_first_replica_writes_all() -> None:
    assert shares((0, 0, 0, 0), (0, 0, 1, 0), (0, 0, 0, 0), (0, 0, 1, 0)) == [
        Share(True, True, True),
        Share(False, True, True),
        Share(False, False, True),
        Share(False, False, True),
    ]


def test_each_disk_gets_a_replica_of_its_own_once() -> None:
    assert shares((0, 0, 0, 0), (0, 0, 0, 0), (2, 0, 0, 0), (2, 0, 0, 0)) == [
        Share(True, True, True),
        Share(False, False, True),
        Share(True, True, True),
        Share(False, False, True),
    ]


def test_a_stage_whose_shards_lie_on_two_disks_is_not_whole_on_either() -> None:
    # Stage 0 is split over both machines by tensor ranks, stage 1 lies on the second.
    found = shares((0, 0, 0, 0), (1, 0, 0, 1), (1, 1, 0, 0), (1, 1, 0, 1))
    assert [share.has_stage for share in found] == [False, False, True, True]
    assert [share.is_first_of_disk for share in found] == [True, True, False, False]
    assert all(share.writes_shard for share in found)
