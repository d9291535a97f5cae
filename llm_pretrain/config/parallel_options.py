"""The option strings tensor_, pipeline_ and sharding_parallel_config: names between spaces.

Every name that PaddleNLP knows is accepted. Some have an effect; each of the others has a reason
why not. None changes the losses. On an accelerator communication goes on beside the computation
whether an option asks for it or not.
"""

from __future__ import annotations

import difflib
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

from llm_pretrain.config.argument_types import shown

_REDUCE_EARLY = "a bucket of gradients is reduced while the backward pass goes on"
_GATHER_LATE = "updated weights are gathered while the next step begins"
_RELEASE = "gradients take no memory between steps"

OPTIONS: dict[str, dict[str, str]] = {
    "tensor_parallel_config": {},
    "pipeline_parallel_config": {
        "enable_dp_comm_overlap": f"without sharding, {_REDUCE_EARLY}",
        "enable_sharding_comm_overlap": f"with sharding, {_REDUCE_EARLY}",
        "enable_release_grads": _RELEASE,
    },
    "sharding_parallel_config": {
        "enable_stage1_overlap": f"with stage1, {_REDUCE_EARLY}",
        "enable_stage2_overlap": f"with stage2 and stage3, {_REDUCE_EARLY}",
        "enable_overlap": f"with any stage, {_REDUCE_EARLY}",
        "enable_stage1_allgather_overlap": f"with stage1 and stage2, {_GATHER_LATE}",
        "enable_stage1_broadcast_overlap": "the same as enable_stage1_allgather_overlap",
        "enable_release_grads": _RELEASE,
    },
}
"""Options with an effect, by key, and what each does. They need no pipeline."""

INERT_OPTIONS: dict[str, dict[str, str]] = {
    "tensor_parallel_config": {
        "enable_mp_async_allreduce": "always on, on an accelerator: input gradients are summed "
        "while those of weights are computed",
        "enable_mp_skip_c_identity": "it only speeds up enable_mp_async_allreduce",
        "enable_mp_fused_linear_param_grad_add": "it only speeds up enable_mp_async_allreduce",
        "enable_sp_async_reduce_scatter": "always on, on an accelerator: input gradients are "
        "scattered while those of weights are computed",
        "enable_delay_scale_loss": "the loss is divided before it is accumulated",
        "sync_param": "whole tensors are equal on all tensor-parallel ranks by construction",
        "sync_grad": "whole tensors' gradients are equal on all tensor-parallel ranks",
        "sync_moment": "whole tensors' moments are equal on all tensor-parallel ranks",
        "replace_with_c_embedding": "always so: each tensor-parallel rank holds rows of the table",
        "replace_with_parallel_cross_entropy": "always on: the loss is of logits that stay split "
        "over the vocabulary",
    },
    "pipeline_parallel_config": {
        "disable_p2p_cache_shape": "all micro-batches of a run have one shape",
        "disable_partial_send_recv": "activations are always sent whole",
        "enable_delay_scale_loss": "the loss is divided before it is accumulated",
        "enable_overlap_p2p_comm": "always on: sends do not hold a stage up",
        "enable_clear_every_step_cache": "no cache is kept between steps",
        "disable_batch_p2p_comm": "how stages exchange tensors follows the backend",
        "enable_timer": "there are no stage timers",
        "enable_dynamic_shape": "all samples of a run have one length",
        "best_unbalanced_scheduler": "always on: virtual stages may hold unequal numbers of layers",
        "use_dualpipev": "the schedule is one forward, one backward, or that interleaved",
        "enable_split_backward": "it belongs to the static engine",
        "enable_send_recv_overlap": "it belongs to the static engine",
        "disable_non_batch_p2p_comm": "how stages exchange tensors follows the backend",
        "auto_parallel_sync_shared_params": "a tied table's gradient is summed over its stages "
        "once a step",
        "sync_param": "a tied table is equal on its stages by construction",
        "sync_moment": "a tied table's moments are equal on its stages",
        "enable_offload_queue": "activations stay on the device",
        "forward_backward_overlap_scheduler": "the schedule is one forward, one backward, or that "
        "interleaved",
    },
    "sharding_parallel_config": {
        "enable_stage1_tensor_fusion": "always on: gradients and weights are reduced and gathered "
        "in flat buffers of sharding_comm_buffer_size_MB",
        "split_param": "always on: each rank of a sharding group updates an equal part of a buffer",
        "disable_stage1_reduce_avg": "losses are divided, then gradients are summed",
        "enable_tensor_fusion": "always on: gradients and weights are reduced and gathered in flat "
        "buffers of sharding_comm_buffer_size_MB",
        "enable_stage1_tensor_fusion_blanced_save_load": "checkpoints do not depend on the layout",
        "enable_fuse_optimizer_states": "always on: an optimizer state is one tensor per buffer",
    },
}
"""Options without effect, by key, and why: each completes "KEY NAME: no effect here: …"."""

FLAGS: dict[str, tuple[str, str]] = {
    flag: (key, option)
    for key, options in {
        "tensor_parallel_config": {
            "tp_async_allreduce": "enable_mp_async_allreduce",
            "mp_async_allreduce": "enable_mp_async_allreduce",
            "mp_skip_c_identity": "enable_mp_skip_c_identity",
            "mp_fused_linear_param_grad_add": "enable_mp_fused_linear_param_grad_add",
            "sp_async_reduce_scatter": "enable_sp_async_reduce_scatter",
            "tp_delay_scale_loss": "enable_delay_scale_loss",
            "tp_sync_param": "sync_param",
            "sync_grad": "sync_grad",
            "tp_sync_moment": "sync_moment",
            "replace_with_c_embedding": "replace_with_c_embedding",
            "replace_with_parallel_cross_entropy": "replace_with_parallel_cross_entropy",
        },
        "pipeline_parallel_config": {
            "dp_comm_overlap": "enable_dp_comm_overlap",
            "sharding_comm_overlap": "enable_sharding_comm_overlap",
            "pp_sharding_comm_overlap": "enable_sharding_comm_overlap",
            "pp_release_grads": "enable_release_grads",
            "release_grads": "enable_release_grads",
            "overlap_p2p_comm": "enable_overlap_p2p_comm",
            "batch_p2p_comm": "disable_batch_p2p_comm",
            "non_batch_p2p_comm": "disable_non_batch_p2p_comm",
            "p2p_cache_shape": "disable_p2p_cache_shape",
            "partial_send_recv": "disable_partial_send_recv",
            "clear_every_step_cache": "enable_clear_every_step_cache",
            "pp_delay_scale_loss": "enable_delay_scale_loss",
            "pp_sync_param": "sync_param",
            "pp_sync_moment": "sync_moment",
            "auto_parallel_sync_shared_params": "auto_parallel_sync_shared_params",
            "best_unbalanced_scheduler": "best_unbalanced_scheduler",
            "offload_queue": "enable_offload_queue",
            "use_dualpipev": "use_dualpipev",
            "forward_backward_overlap_scheduler": "forward_backward_overlap_scheduler",
            "send_recv_overlap": "enable_send_recv_overlap",
            "split_backward": "enable_split_backward",
            "timer": "enable_timer",
        },
        "sharding_parallel_config": {
            "stage1_tensor_fusion": "enable_stage1_tensor_fusion",
            "tensor_fusion": "enable_tensor_fusion",
            "stage1_overlap": "enable_stage1_overlap",
            "stage2_overlap": "enable_stage2_overlap",
            "overlap": "enable_overlap",
            "sd_sharding_comm_overlap": "enable_overlap",
            "sd_shardingv1_comm_overlap": "enable_overlap",
            "stage1_broadcast_overlap": "enable_stage1_broadcast_overlap",
            "stage1_allgather_overlap": "enable_stage1_allgather_overlap",
            "stage1_reduce_avg": "disable_stage1_reduce_avg",
            "fuse_optimizer_states": "enable_fuse_optimizer_states",
            "sd_release_grads": "enable_release_grads",
            "split_param": "split_param",
        },
    }.items()
    for flag, option in options.items()
}
"""PaddleFormers' flags by which an option is chosen: the key of the options, and the name."""


def _reader(key: str) -> Any:
    known = [*OPTIONS[key], *INERT_OPTIONS[key]]

    def read(value: Any) -> tuple[str, ...]:
        if isinstance(value, str):
            value = value.replace(",", " ").split()
        if not isinstance(value, (list, tuple)) or not all(isinstance(v, str) for v in value):
            raise ValueError(f"{shown(value)} is not a list of option names between spaces")
        for name in value:
            if name not in known:
                raise ValueError(f"unknown option {name!r}; {_hint(name, known)}")
        return tuple(value)

    return read


def _hint(name: str, known: list[str]) -> str:
    for key, options in OPTIONS.items():
        if name in options or name in INERT_OPTIONS[key]:
            return f"it belongs in {key}"
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"


def described(what: str, key: str) -> str:
    """`what` the options of `key` are, as a sentence, and those that have an effect."""
    effects = "; ".join(f"{name}: {effect}" for name, effect in OPTIONS[key].items())
    return " ".join(
        [what, f"With an effect: {effects}." if effects else "None has an effect here."]
    )


_SCHEMA = WithJsonSchema({"type": "string"})
TensorOptions = Annotated[
    tuple[str, ...], BeforeValidator(_reader("tensor_parallel_config")), _SCHEMA
]
PipelineOptions = Annotated[
    tuple[str, ...], BeforeValidator(_reader("pipeline_parallel_config")), _SCHEMA
]
ShardingOptions = Annotated[
    tuple[str, ...], BeforeValidator(_reader("sharding_parallel_config")), _SCHEMA
]
