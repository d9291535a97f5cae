"""PyTorch's own layouts of a LLaMA, as a process of torch.distributed.run:
torch_layouts.py SHAPE.json STEPS RESULT.json DTYPE LAYOUT

LAYOUT is "dp" (DistributedDataParallel), "stage3" (FSDP2), "tp" (DTensor), "pp" (1F1B of
torch.distributed.pipelining) or "alone". Tokens of a step are the same in all: `batch` samples, one
at a time in "pp" and "alone" where there are several micro-batches.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from timing import time_steps
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.pipelining import PipelineStage, Schedule1F1B
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    loss_parallel,
    parallelize_module,
)
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch_model import Model

shape = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
layout, low_precision = sys.argv[5], sys.argv[4] == "bfloat16"
dist.init_process_group("gloo")
rank, ranks = dist.get_rank(), dist.get_world_size()
micro_batches = shape["micro_batches"]
torch.manual_seed(0)
tokens = torch.randint(0, shape["vocab_size"], (shape["batch"], shape["sequence"] + 1))


def autocast() -> Any:
    return torch.autocast("cpu", torch.bfloat16, enabled=low_precision)


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten())


def sharded(model: Model) -> nn.Module:
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if low_precision else None
    options: dict[str, Any] = {} if policy is None else {"mp_policy": policy}
    for block in model.blocks:
        fully_shard(block, **options)
    return fully_shard(model, **options)


def tensor_parallel(model: Model, mesh: DeviceMesh) -> nn.Module:
    """As torchtitan does without sequence parallelism: the head's logits stay split."""
    whole = RowwiseParallel(input_layouts=Replicate())
    split = ColwiseParallel(output_layouts=Shard(-1), use_local_output=False)
    parallelize_module(model, mesh, {"embedding": whole, "head": split})
    for block in model.blocks:
        columns = {name: ColwiseParallel() for name in ("query", "key", "value", "gate", "up")}
        rows = {name: RowwiseParallel() for name in ("output", "down")}
        parallelize_module(block, mesh, columns | rows)
    return model


def in_stages() -> tuple[Model, Callable[[], float]]:
    count = shape["num_hidden_layers"]
    layers = range(count * rank // ranks, count * (rank + 1) // ranks)
    model = Model(shape, layers=layers)
    schedule = Schedule1F1B(
        PipelineStage(model, rank, ranks, torch.device("cpu")),
        micro_batches,
        loss_fn=loss_of,
    )

    def passes() -> float:
        losses: list[Tensor] = []
        with autocast():
            if rank == 0:
                schedule.step(tokens[:, :-1])
            else:
                schedule.step(target=tokens[:, 1:], losses=losses)
        loss = torch.stack(losses).mean() if losses else torch.zeros(())
        dist.all_reduce(loss)
        return loss.item()

    return model, passes


own = tokens
if layout == "pp":
    model, passes = in_stages()
else:
    module: nn.Module = Model(shape, is_fused=layout != "tp")
    if layout in ("dp", "stage3"):
        own = tokens.chunk(ranks)[rank]
        module = DistributedDataParallel(module) if layout == "dp" else sharded(module)
    if layout == "tp":
        module = tensor_parallel(module, init_device_mesh("cpu", (ranks,)))
    model = module

    def passes() -> float:
        total = 0.0
        for part in own.chunk(micro_batches):
            with loss_parallel() if layout == "tp" else nullcontext():
                with autocast():
                    logits = model(part[:, :-1])
                loss = loss_of(logits, part[:, 1:]) / micro_batches
                loss.backward()
            total += loss.item()
        return total


# Operators of PyTorch don't take tensors of both kinds together.
groups = [
    [p for p in model.parameters() if isinstance(p, DTensor) == is_distributed]
    for is_distributed in (False, True)
]
optimizers = [
    torch.optim.AdamW(group, 1e-4, weight_decay=0.1, fused=True) for group in groups if group
]


def global_norm() -> Tensor:
    norms = [
        nn.utils.get_total_norm([p.grad for p in group if p.grad is not None])
        for group in groups
        if group
    ]
    norms = [norm.full_tensor() if isinstance(norm, DTensor) else norm for norm in norms]
    total = torch.stack(norms).square().sum()
    if layout == "pp":
        dist.all_reduce(total)
    return total.sqrt()


def step() -> float:
    loss = passes()
    norm = global_norm()
    for group in groups:
        nn.utils.clip_grads_with_norm_(group, 1.0, norm)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return loss


time_steps(step, int(sys.argv[2]), Path(f"{sys.argv[3]}.{rank}"))
dist.destroy_process_group()
