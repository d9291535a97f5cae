"""The norm of the gradient of the whole model, from the shards of all ranks."""

from __future__ import annotations

import paddle
from paddle import Tensor

from llm_pretrain import ops
from llm_pretrain.parallel import collectives
from llm_pretrain.parallel.buckets import Bucket
from llm_pretrain.parallel.topology import Topology


@paddle.no_grad()
def global_norm(buckets: list[Bucket], shards: list[Tensor], topology: Topology) -> Tensor:
    """Euclidean norm, float32 [1], of all gradients of the model, each counted once."""
    total = paddle.zeros([1], "float32")
    for bucket, shard in zip(buckets, shards, strict=True):
        if bucket.counts_in_norm():
            total += ops.sum_of_squares(shard)
    for group in (topology.sharding_group, topology.tensor_group, topology.pipeline_group):
        collectives.all_reduce(total, group)
    return total.sqrt()
