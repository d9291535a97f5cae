"""The option strings tensor_, pipeline_ and sharding_parallel_config: names between spaces.

Every name that PaddleNLP knows is accepted. None has an effect in this version: they choose between
ways of communicating that give the same losses.
"""

from __future__ import annotations

import difflib
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

from llm_pretrain.config.arguments import shown

OPTIONS: dict[str, dict[str, str]] = {
    "tensor_parallel_config": {
        "enable_mp_async_allreduce": "the all-reduce of input gradients is not overlapped",
        "enable_mp_skip_c_identity": "it only speeds up enable_mp_async_allreduce",
        "enable_mp_fused_linear_param_grad_add": "it only speeds up enable_mp_async_allreduce",
        "enable_sp_async_reduce_scatter": "it belongs to sequence parallelism",
        "enable_delay_scale_loss": "the loss is divided before it is accumulated",
        "sync_param": "whole tensors are equal on all tensor-parallel ranks by construction",
        "sync_grad": "whole tensors' gradients are equal on all tensor-parallel ranks",
        "sync_moment": "whole tensors' moments are equal on all tensor-parallel ranks",
    },
    "pipeline_parallel_config": {
        "disable_p2p_cache_shape": "all micro-batches of a run have one shape",
        "disable_partial_send_recv": "activations are always sent whole",
        "enable_delay_scale_loss": "the loss is divided before it is accumulated",
        "enable_dp_comm_overlap": "gradients are reduced after the last micro-batch",
        "enable_sharding_comm_overlap": "gradients are reduced after the last micro-batch",
        "enable_release_grads": "gradients are freed by the optimizer step",
        "enable_overlap_p2p_comm": "sends between stages are not overlapped",
        "enable_clear_every_step_cache": "no cache is kept between steps",
        "disable_batch_p2p_comm": "how stages exchange tensors follows the backend",
        "enable_timer": "there are no stage timers",
        "best_unbalanced_scheduler": "virtual stages are not available yet",
        "use_dualpipev": "the schedule is one forward, one backward",
        "enable_split_backward": "it belongs to the static engine",
        "enable_send_recv_overlap": "it belongs to the static engine",
    },
    "sharding_parallel_config": {
        "enable_stage1_tensor_fusion": "how gradients are grouped is chosen by the program",
        "enable_stage1_overlap": "gradients are reduced after the last micro-batch",
        "enable_stage2_overlap": "gradients are reduced after the last micro-batch",
        "split_param": "parameters are not split within the sharding group",
        "disable_stage1_reduce_avg": "losses are divided, then gradients are summed",
        "enable_stage1_broadcast_overlap": "weights are gathered before the next step",
        "enable_stage1_allgather_overlap": "weights are gathered before the next step",
        "enable_release_grads": "gradients are freed by the optimizer step",
        "enable_stage1_tensor_fusion_blanced_save_load": "checkpoints do not depend on the layout",
        "enable_fuse_optimizer_states": "optimizer states are kept per parameter",
    },
}


def _reader(key: str) -> Any:
    known = OPTIONS[key]

    def read(value: Any) -> tuple[str, ...]:
        if isinstance(value, str):
            value = value.replace(",", " ").split()
        if not isinstance(value, (list, tuple)) or not all(isinstance(v, str) for v in value):
            raise ValueError(f"{shown(value)} is not a list of option names between spaces")
        for name in value:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
                raise ValueError(f"unknown option {name!r}; {hint}")
        return tuple(value)

    return read


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
