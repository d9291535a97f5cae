"""What the benchmark times: each operator on one shape, and what PyTorch offers for the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import operators
import torch
from library import Library, Mask
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

Call = Callable[[], object]


class Case(NamedTuple):
    """Calls, and the work of one: bytes that must be read and written, or operations."""

    name: str
    ours: Call
    theirs: dict[str, Call]
    bytes: int = 0
    operations: int = 0


def cases(library: Library) -> Iterator[Case]:
    for group in (norms, rotary, swiglu, attention, head, adamw):
        yield from group(library)
        torch.cuda.empty_cache()


def random(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(shape, device="cuda", dtype=dtype)


def backward_of(output: Tensor, operands: list[Tensor], gradient: Tensor) -> Call:
    return lambda: torch.autograd.grad(output, operands, gradient, retain_graph=True)


def norms(library: Library) -> Iterator[Case]:
    """Of [8192, 4096]."""
    R, H = 8192, 4096
    size = 2 * R * H
    x, residual, dy = random(R, H), random(R, H), random(R, H)
    weight, bias = random(H), random(H)
    trained = [tensor.clone().requires_grad_() for tensor in (x, weight, bias)]
    for name, given, function in (
        ("rms_norm", None, lambda x, w, b: F.rms_norm(x, [H], w, 1e-5)),
        ("layer_norm", bias, lambda x, w, b: F.layer_norm(x, [H], w, b, 1e-5)),
    ):
        _, total, kept = operators.norm(library, x, None, weight, given, 1e-5)

        def forward(function=function) -> Tensor:
            return function(x, weight, bias)

        def joined(function=function) -> Tensor:
            return function(x + residual, weight, bias)

        operands = trained[:2] if given is None else trained
        yield Case(
            name,
            lambda given=given: operators.norm(library, x, None, weight, given, 1e-5),
            {name: forward},
            bytes=2 * size,
        )
        yield Case(
            f"residual + {name}",
            lambda given=given: operators.norm(library, x, residual, weight, given, 1e-5),
            {f"add, {name}": joined, "compiled": torch.compile(joined)},
            bytes=4 * size,
        )
        yield Case(
            f"{name} backward",
            lambda total=total, kept=kept: operators.norm_backward(
                library, dy, total, weight, kept, None
            ),
            {name: backward_of(function(*trained), operands, dy)},
            bytes=3 * size,
        )


def rotary(library: Library) -> Iterator[Case]:
    """Of 4096 positions of 32 heads of 128; PyTorch has none, what models write is compiled."""
    x = random(2, 4096, 32, 128)
    angles = torch.rand(4096, 64, device="cuda").repeat(1, 2)
    cos, sin = angles.cos(), angles.sin()

    def written(x: Tensor) -> Tensor:
        a, b = x.float().chunk(2, -1)
        turned = torch.cat([-b, a], -1)
        return (x.float() * cos[:, None] + turned * sin[:, None]).to(x.dtype)

    compiled = torch.compile(written)
    yield Case(
        "rotary",
        lambda: operators.rotary(library, x, cos, sin, 1, 1),
        {"compiled": lambda: compiled(x)},
        bytes=4 * x.numel(),
    )


def swiglu(library: Library) -> Iterator[Case]:
    """Of [8192, 14336]."""
    x, up, dy = (random(8192, 14336) for _ in range(3))
    operands = [x.clone().requires_grad_(), up.clone().requires_grad_()]
    size = 2 * x.numel()
    compiled = torch.compile(lambda x, up: F.silu(x) * up)
    yield Case(
        "swiglu",
        lambda: operators.activation(library, "silu", x, up),
        {"silu, multiply": lambda: F.silu(x) * up, "compiled": lambda: compiled(x, up)},
        bytes=3 * size,
    )
    yield Case(
        "swiglu backward",
        lambda: operators.activation_backward(library, "silu", dy, x, up),
        {"compiled": backward_of(compiled(*operands), operands, dy)},
        bytes=5 * size,
    )


def attention(library: Library) -> Iterator[Case]:
    """Causal, of 4096 positions of 32 heads of 128: with as many key heads, and with 8."""
    for key_heads, dtype in ((32, torch.bfloat16), (8, torch.bfloat16), (32, torch.float16)):
        q, k, v, dy = (random(1, 4096, n, 128, dtype=dtype) for n in (32, key_heads, key_heads, 32))
        mask = Mask.of(None, None, None)
        y, log_sums = operators.attention(library, q, k, v, mask)
        theirs = [x.transpose(1, 2).requires_grad_() for x in (q.clone(), k.clone(), v.clone())]

        def forward(backend: SDPBackend, theirs=theirs) -> Tensor:
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(*theirs, is_causal=True, enable_gqa=True)

        backends = {"flash": SDPBackend.FLASH_ATTENTION, "cuDNN": SDPBackend.CUDNN_ATTENTION}
        products = 2 * 32 * 4096**2 * 128 // 2  # of queries and seen keys, one of them
        name = f"attention, {key_heads} key heads, {str(dtype).removeprefix('torch.')}"
        ours = (library, q, k, v, mask)
        yield Case(
            name,
            lambda ours=ours: operators.attention(*ours),
            {which: partial(forward, backend) for which, backend in backends.items()},
            operations=2 * products,
        )
        yield Case(
            f"{name}, backward",
            lambda ours=ours, rest=(y, log_sums, dy): operators.attention_backward(*ours, *rest),
            {
                which: backward_of(forward(backend), theirs, dy.transpose(1, 2))
                for which, backend in backends.items()
            },
            operations=5 * products,
        )


def head(library: Library) -> Iterator[Case]:
    """Loss and gradients of 4096 tokens, 4096 wide, over 128,256 entries."""
    R, H, V, ignored = 4096, 4096, 128256, -100
    x, weight = random(R, H), random(H, V) / H**0.5
    labels = torch.randint(V, (R,), device="cuda")
    dlosses = torch.full((R,), 1 / R, device="cuda")
    operands = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
    chunk = V // 16 // 8 * 8  # a sixteenth of the logits at a time

    def ours() -> object:
        state = operators.read_vocabulary(library, x, weight, labels, 0, chunk)
        _, log_sums = operators.loss(library, labels, ignored, state)
        return operators.loss_backward(
            library, x, weight, labels, 0, chunk, ignored, log_sums, dlosses
        )

    def theirs() -> object:
        loss = F.cross_entropy((operands[0] @ operands[1]).float(), labels)
        return torch.autograd.grad(loss, operands)

    yield Case(
        "linear + cross entropy, both passes",
        ours,
        {"matmul, cross_entropy": theirs},
        operations=4 * 2 * R * H * V,
    )


def adamw(library: Library) -> Iterator[Case]:
    """Over 64 tensors of 4 Mi float32 values."""
    states = [
        operators.AdamWState(
            *(random(4 * 2**20, dtype=torch.float32).abs() for _ in range(4)), None, 0.1
        )
        for _ in range(64)
    ]
    parameters = [state.master.clone().requires_grad_() for state in states]
    for parameter, state in zip(parameters, states, strict=True):
        parameter.grad = state.gradient.clone()
    optimizer = torch.optim.AdamW(parameters, lr=1e-5, weight_decay=0.1, fused=True)
    yield Case(
        "adamw",
        lambda: operators.adamw(
            library, states, weights_dtype=torch.float32, factor=1.0, learning_rate=1e-5,
            betas=(0.9, 0.999), epsilon=1e-8, step=10,
        ),
        {"fused AdamW": optimizer.step},
        bytes=7 * 4 * 64 * 4 * 2**20,
    )  # fmt: skip
