"""What the program takes from Paddle that is not public, in this file alone, each with its reason.

Tensors: public calls copy what is sliced, and can neither free a tensor's memory while the autograd
graph refers to the tensor, nor give it another's. The kernel of AdamW has no public function but
the optimizer's, which holds the parameters.

Processes: Gloo's groups lack operations (`parallel.comm.gloo`), which Paddle's collectives look for
in a class; groups meet in stores that have no public class; the job's own store is the one way to
tell other ranks of an error when a collective no longer works. Paddle forms its groups once in a
process, and keeps them for ever; a job that has lost a rank forms them again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import paddle
import paddle.distributed as dist
from paddle import Tensor, _C_ops
from paddle.base import core

ProcessGroupGloo: Any = core.ProcessGroupGloo
"""The class of Gloo's groups."""
TCPStore: Any = core.TCPStore
"""Where processes meet: values by key, of which a reader waits for those that are not there yet."""
SUM: Any = core.ReduceOp.SUM
MAX: Any = core.ReduceOp.MAX
"""How a reduction combines values."""


def job_store() -> Any:
    """The store in which all processes of the job met."""
    return dist.collective._default_store


def open_job_stores_anew() -> None:
    """Let each start of the parallel environment open a store; Paddle would keep its first."""
    core.create_or_get_global_tcp_store = _open_job_store


def _open_job_store() -> Any:
    host, _, port = os.environ["PADDLE_MASTER"].rpartition(":")
    rank, size = os.environ["PADDLE_TRAINER_ID"], os.environ["PADDLE_TRAINERS_NUM"]
    return TCPStore(host, int(port), rank == "0", int(size))


def forget_groups() -> None:
    """Make `paddle.distributed` and Fleet as they were before any group was formed.

    What C++ keeps of a group by its number stays, so that groups of a later time need others.
    """
    from paddle.distributed import parallel, parallel_helper
    from paddle.distributed.communication import group
    from paddle.distributed.fleet.base import topology

    collective: Any = dist.collective
    group._GroupManager.group_map_by_id.clear()
    group._GroupManager.global_group_id = 0
    for groups in (
        collective._group_map,
        collective._group_map_by_name,
        collective._group_map_backend,
    ):
        groups.clear()
    collective._default_store = collective._global_env = None
    collective._start_ring_id = 0
    parallel._global_parallel_env = None
    parallel_helper.__dict__["__parallel_ctx__clz__"] = None
    topology._HYBRID_PARALLEL_GROUP = None
    # Fleet sets it, and takes it for the user's when it is called again.
    os.environ.pop("FLAGS_nccl_nrings", None)
    core.ProcessGroupIdMap.destroy()


def print_no_modified_flags() -> None:
    """Spare the screen a table of settings that Paddle has changed by itself."""
    dist.parallel._print_modified_flags = lambda flags: None


def view(flat: Tensor, begin: int, end: int, shape: Sequence[int] | None = None) -> Tensor:
    """The elements [begin, end) along the first axis, in `shape`; it shares their memory."""
    part = flat._slice(begin, end)
    if shape is not None:
        part.get_tensor()._set_dims(list(shape))
    return part


def share(source: Tensor, target: Tensor) -> None:
    """Make `target`, of the same shape and dtype, a view of `source`."""
    source._share_buffer_to(target)


def free(tensor: Tensor) -> None:
    """Give back a tensor's memory; who refers to the tensor finds what is next put into it."""
    tensor._clear_data()


def has_values(tensor: Tensor) -> bool:
    """Whether a tensor has memory."""
    return bool(tensor._is_initialized())


def call_with_gradient(parameter: Tensor, hook: Callable[[Tensor | None], None]) -> None:
    """Call `hook` with the gradient of each backward pass; public hooks would keep it besides."""
    parameter._register_grad_hook(hook)


def adamw_(
    weights: Tensor,
    gradient: Tensor,
    moments: tuple[Tensor, Tensor],
    *,
    learning_rate: float,
    betas: tuple[float, float],
    powers: tuple[float, float],
    epsilon: float,
    weight_decay: float,
) -> None:
    """A step of AdamW by Paddle's kernel, in place, of float32 tensors.

    Args:
        powers: of the betas, by the number of the step.
    """
    rate = paddle.full([1], learning_rate, "float32")
    on_host = (paddle.to_tensor([power], "float32", place=paddle.CPUPlace()) for power in powers)
    tensors: list[Any] = [weights, gradient, rate, *moments, None, *on_host, None, None]
    # Of the layer's rate, and whether: decays, lazily, since how many rows, with a master, with
    # powers that others count on, as AMSGrad.
    options = 1.0, weight_decay, True, False, 0, False, True, False
    kernel: Any = _C_ops.adamw_
    kernel(*tensors, *betas, epsilon, *options)
