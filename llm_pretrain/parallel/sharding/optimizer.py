"""AdamW over the flat shards of the buckets, with clipping by the norm of the whole model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import paddle
from paddle import Tensor, nn

from llm_pretrain import ops
from llm_pretrain.config import TrainingArguments
from llm_pretrain.parallel.comm import collectives
from llm_pretrain.parallel.comm.topology import Topology
from llm_pretrain.parallel.sharding.buckets import (
    Bucket,
    Sharding,
    build_buckets,
    gather_around_units,
)

MOMENTS = ("moment1", "moment2")
"""Names of AdamW's state, as in Paddle."""
_BUCKET_MB = 256


@dataclass(frozen=True)
class StepResult:
    global_norm: float
    """Norm of the mean gradient before clipping."""
    is_skipped: bool
    """The weights are as they were: a float16 gradient overflowed, or the step was skipped."""


class ShardedAdamW:
    """Decoupled weight decay (Loshchilov & Hutter, arXiv:1711.05101), float32 master weights.

    Each sharding rank holds moments and masters of its shard of every bucket alone. Build it when
    the model has its values, and recompute is applied: at stage 3 it takes the weights away.
    """

    def __init__(
        self,
        model: nn.Layer,
        training: TrainingArguments,
        topology: Topology,
        *,
        tied_embedding: bool,
        rate_of: Callable[[str], float] | None = None,
    ) -> None:
        """`tied_embedding` and `rate_of`: as `build_buckets` has them."""
        self.topology = topology
        self.max_norm = training.max_grad_norm
        sharding = sharding_of(training, topology, str(model.parameters()[0].dtype))
        self.buckets: list[Bucket] = build_buckets(
            model, topology, sharding, tied_embedding=tied_embedding, rate_of=rate_of
        )
        if sharding.stage == 3 or sharding.overlaps_gathering:
            gather_around_units(model, self.buckets)
        self.betas = training.adam_beta1, training.adam_beta2
        self.epsilon = training.adam_epsilon
        self.weight_decay = training.weight_decay
        self.moments = [
            {name: paddle.zeros([bucket.buffer.shard_size], "float32") for name in MOMENTS}
            for bucket in self.buckets
        ]
        self.shards: list[Tensor] = []
        """Of the reduced gradients, bucket by bucket, until they are applied."""
        self.steps = 0
        self.weights_stay = sharding.stage < 3

    def begin_step(self, micro_batches: int) -> None:
        """Say how many backward passes the step has, so that reductions can begin in the last."""
        ops.drop_weights()
        ops.give_back_memory()
        if self.weights_stay and micro_batches > 1:
            # For one, what is made of a weight would serve one product.
            ops.hold_weights()
        for bucket in self.buckets:
            bucket.begin_step(micro_batches)

    @paddle.no_grad()
    def reduce_gradients(self) -> Tensor:
        """Sum the accumulated gradients over the ranks; return their norm, float32 [1].

        To read the norm, the host waits for the device: read with it what else is to be known.
        """
        ops.drop_weights()
        self.shards = [bucket.reduce_gradients() for bucket in self.buckets]
        return global_norm(self.buckets, self.shards, self.topology)

    @paddle.no_grad()
    def step(self, norm: float, learning_rate: float, loss_scale: LossScale) -> StepResult:
        """Clip and apply the reduced gradients, unless they are not finite, then clear them.

        Args:
            norm: from `reduce_gradients`, of the scaled losses' gradients.
        """
        norm /= loss_scale.value
        is_finite = math.isfinite(norm)
        if is_finite:
            self._apply(self._factor(norm) / loss_scale.value, learning_rate)
        self.drop_gradients()
        loss_scale.update(overflowed=not is_finite)
        return StepResult(norm, is_skipped=not is_finite)

    def drop_gradients(self) -> None:
        """Forget the reduced gradients; without `step` before, nothing else has changed."""
        self.shards = []
        for bucket in self.buckets:
            bucket.clear_gradients()

    def _factor(self, norm: float) -> float:
        if self.max_norm <= 0.0 or norm <= self.max_norm:
            return 1.0
        return self.max_norm / norm

    def _apply(self, factor: float, learning_rate: float) -> None:
        self.steps += 1
        for bucket, moments, shard in zip(self.buckets, self.moments, self.shards, strict=True):
            rate = bucket.kind.rate
            ops.adamw_(
                *(bucket.master, moments["moment1"], moments["moment2"], shard),
                learning_rate=learning_rate * rate,
                beta1=self.betas[0],
                beta2=self.betas[1],
                epsilon=self.epsilon,
                weight_decay=self.weight_decay / rate if bucket.kind.decays else 0.0,
                gradient_factor=factor,
                step=self.steps,
            )
            bucket.weights.all_gather()

    def state(self) -> Iterator[tuple[Bucket, dict[str, Tensor]]]:
        """Each bucket with its shard's "master" and moments."""
        for bucket, moments in zip(self.buckets, self.moments, strict=True):
            bucket.weights.release()
            yield bucket, {"master": bucket.master, **moments}

    @paddle.no_grad()
    def restore(self, states: list[dict[str, Tensor]], steps: int) -> None:
        """Take up the state of `state()`, bucket by bucket, after that many steps."""
        self.steps = steps
        for bucket, moments, tensors in zip(self.buckets, self.moments, states, strict=True):
            bucket.weights.release()
            bucket.master.copy_(tensors["master"], True)
            bucket.weights.all_gather()
            for name in MOMENTS:
                moments[name].copy_(tensors[name], True)


def sharding_of(training: TrainingArguments, topology: Topology, weight_dtype: str) -> Sharding:
    """How weights and gradients are held and exchanged, by the run's arguments."""
    is_sharded = topology.degrees.sharding > 1
    stage = max(training.sharding_stage, 1) if is_sharded else 1
    options = {*training.sharding_parallel_config, *training.pipeline_parallel_config}
    overlapping = {
        "enable_dp_comm_overlap": not is_sharded,
        "enable_sharding_comm_overlap": is_sharded,
        "enable_stage1_overlap": is_sharded and stage == 1,
        "enable_stage2_overlap": stage > 1,
        "enable_overlap": is_sharded,
    }
    gathering = {"enable_stage1_allgather_overlap", "enable_stage1_broadcast_overlap"}
    # On an accelerator unasked: it changes no number.
    unasked = collectives.overlap()
    overlaps_reduction = unasked or any(overlapping.get(option, False) for option in options)
    overlaps_gathering = is_sharded and (unasked or not gathering.isdisjoint(options))
    has_float32_gradients = training.amp_master_grad or training.fp16_opt_level != "O2"
    megabytes = training.sharding_comm_buffer_size_MB
    return Sharding(
        stage,
        bucket_bytes=(megabytes if megabytes > 0 else _BUCKET_MB) << 20,
        gradient_dtype="float32" if has_float32_gradients else weight_dtype.removeprefix("paddle."),
        overlaps_reduction=overlaps_reduction,
        overlaps_gathering=overlaps_gathering,
        releases_gradients="enable_release_grads" in options,
    )


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


GROWTH_INTERVAL = 2000
"""Steps without overflow after which the scale doubles (Paddle's GradScaler)."""


class LossScale:
    """Halved when a gradient overflows, doubled after `GROWTH_INTERVAL` steps without overflow.

    Args:
        initial: the first scale; 1.0 with `is_dynamic` false leaves losses alone.
        is_dynamic: whether the scale moves: float16 alone needs it.
    """

    def __init__(self, initial: float, *, is_dynamic: bool) -> None:
        self.value = float(initial)
        self.is_dynamic = is_dynamic
        self.steps_without_overflow = 0

    def overflows(self, norm: float) -> bool:
        """Whether a gradient is not finite and that may be the scale's fault."""
        return not math.isfinite(norm) and self.is_dynamic and self.value > 1.0

    def update(self, *, overflowed: bool) -> None:
        if not self.is_dynamic:
            return
        if overflowed:
            self.value = max(self.value / 2.0, 1.0)
            self.steps_without_overflow = 0
            return
        self.steps_without_overflow += 1
        if self.steps_without_overflow == GROWTH_INTERVAL:
            self.value *= 2.0
            self.steps_without_overflow = 0

    def state(self) -> dict[str, float]:
        return {"value": self.value, "steps_without_overflow": self.steps_without_overflow}

    def restore(self, state: dict[str, float]) -> None:
        self.value = float(state["value"])
        self.steps_without_overflow = int(state["steps_without_overflow"])
