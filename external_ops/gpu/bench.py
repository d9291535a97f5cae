"""Times the operators against PyTorch's own, on one GPU.

    python bench.py LIBRARY

Prints a Markdown table: microseconds of one call, the median of 50 after 10 that warm up, each
timed by events of CUDA. "theirs" is the fastest of what PyTorch offers, which is named.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import operators
import torch
from library import Library, Mask
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

Call = Callable[[], object]
WARM_UP, CALLS = 10, 50


def microseconds(call: Call) -> float:
    """The median time of a call on the device."""
    for _ in range(WARM_UP):
        call()
    times = []
    for _ in range(CALLS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(1000 * begin.elapsed_time(end))
    return statistics.median(times)


def random(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(shape, device="cuda", dtype=dtype)


def norms(library: Library) -> Iterator[tuple[str, Call, dict[str, Call]]]:
    """RMSNorm of [8192, 4096]."""
    x, weight, dy = random(8192, 4096), random(4096), random(8192, 4096)
    _, total, stats = operators.norm(library, x, None, weight, None, 1e-5)
    x_, weight_ = x.clone().requires_grad_(), weight.clone().requires_grad_()
    y = F.rms_norm(x_, [4096], weight_, 1e-5)
    yield (
        "rms_norm",
        lambda: operators.norm(library, x, None, weight, None, 1e-5),
        {"rms_norm": lambda: F.rms_norm(x, [4096], weight, 1e-5)},
    )
    yield (
        "rms_norm backward",
        lambda: operators.norm_backward(library, dy, total, weight, stats, None),
        {"rms_norm": lambda: torch.autograd.grad(y, [x_, weight_], dy, retain_graph=True)},
    )


def attention(library: Library) -> Iterator[tuple[str, Call, dict[str, Call]]]:
    """Causal attention of 32 heads of 128, 8 key heads, 4096 positions."""
    q, k, v, dy = (random(1, 4096, heads, 128) for heads in (32, 8, 8, 32))
    mask = Mask.of(None, None, None)
    y, log_sums = operators.attention(library, q, k, v, mask)
    theirs = [x.transpose(1, 2).requires_grad_() for x in (q.clone(), k.clone(), v.clone())]
    gradient = dy.transpose(1, 2)

    def forward(backend: SDPBackend) -> Tensor:
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(*theirs, is_causal=True, enable_gqa=True)

    def backward_of(output: Tensor) -> Call:
        return lambda: torch.autograd.grad(output, theirs, gradient, retain_graph=True)

    backends = {"flash": SDPBackend.FLASH_ATTENTION, "cuDNN": SDPBackend.CUDNN_ATTENTION}
    yield (
        "attention",
        lambda: operators.attention(library, q, k, v, mask),
        {name: lambda backend=backend: forward(backend) for name, backend in backends.items()},
    )
    yield (
        "attention backward",
        lambda: operators.attention_backward(library, q, k, v, mask, y, log_sums, dy),
        {name: backward_of(forward(backend)) for name, backend in backends.items()},
    )


def adamw(library: Library) -> Iterator[tuple[str, Call, dict[str, Call]]]:
    """AdamW over 64 tensors of 4 Mi float32 values."""
    sizes = [4 * 2**20] * 64
    states = [
        operators.AdamWState(
            *(random(size, dtype=torch.float32).abs() for _ in range(4)), None, 0.1
        )
        for size in sizes
    ]
    parameters = [state.master.clone().requires_grad_() for state in states]
    for parameter, state in zip(parameters, states, strict=True):
        parameter.grad = state.gradient.clone()
    optimizer = torch.optim.AdamW(parameters, lr=1e-5, weight_decay=0.1, fused=True)
    yield (
        "adamw",
        lambda: operators.adamw(
            library, states, weights_dtype=torch.float32, factor=1.0, learning_rate=1e-5,
            betas=(0.9, 0.999), epsilon=1e-8, step=10,
        ),
        {"fused AdamW": optimizer.step},
    )  # fmt: skip


def main() -> None:
    library = Library(Path(sys.argv[1]), "cuda")
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}\n")
    print("| operator | ours, µs | theirs, µs | which |\n|---|---|---|---|")
    for group in (norms, attention, adamw):
        for name, ours, theirs in group(library):
            times = {which: microseconds(call) for which, call in theirs.items()}
            which = min(times, key=lambda key: times[key])
            print(f"| {name} | {microseconds(ours):.0f} | {times[which]:.0f} | {which} |")


if __name__ == "__main__":
    main()
