"""Checks every operator of the C library against float64 on random shapes.

    python check.py LIBRARY [--emulated] [--seeds 8]

Prints a line for each operator and ends with status 1 if one is wrong. With `--emulated` the
library is one for the CPU (see emulation/), and shapes are small.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import operators
import torch
from library import Library, Mask, OperatorError
from references import attention, gated, rotate
from torch import Tensor
from torch.nn import functional as F

TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}
"""Of the largest value of a result. bfloat16 rounds by 2⁻⁹, float16 by 2⁻¹², and what attention
rounds in between adds to that."""


@dataclass
class Draw:
    """Random shapes and values for one case."""

    library: Library
    random: random.Random
    dtype: torch.dtype
    emulated: bool

    def size(self, most: int, most_emulated: int) -> int:
        return self.random.randint(1, most_emulated if self.emulated else most)

    def width(self, most: int, most_emulated: int) -> int:
        """A size that half the time is a multiple of 8, so that kernels move 16 bytes at once."""
        size = self.size(most, most_emulated)
        return size if self.random.random() < 0.5 else (size + 7) // 8 * 8

    def values(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """A tensor whose rows lie farther apart than they are long."""
        padding = 8 * self.random.randint(0, 3)
        seed = torch.Generator().manual_seed(self.random.getrandbits(32))
        wide = torch.randn(*shape[:-1], shape[-1] + padding, generator=seed)
        return wide.to(self.library.device, dtype or self.dtype)[..., : shape[-1]]

    def vector(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return self.values(*shape, dtype=dtype).contiguous()


class WrongResultError(AssertionError):
    """A result is farther from the reference than rounding explains."""


def compare(name: str, result: Tensor, reference: Tensor, dtype: torch.dtype) -> None:
    error = (result.double() - reference).abs().max().item()
    bound = TOLERANCE[dtype] * max(1.0, reference.abs().max().item())
    if not error <= bound:
        raise WrongResultError(f"{name} {list(result.shape)} {dtype}: {error:.3g} > {bound:.3g}")


def exact(*tensors: Tensor | None) -> list[Tensor]:
    """Float64 copies to differentiate by."""
    return [tensor.double().requires_grad_() for tensor in tensors if tensor is not None]


def check_norms(draw: Draw) -> None:
    R, H = draw.size(700, 150), draw.width(9000, 300)
    has_residual, has_bias = draw.random.random() < 0.6, draw.random.random() < 0.5
    x, weight = draw.values(R, H), draw.vector(H)
    residual = draw.values(R, H) if has_residual else None
    bias = draw.vector(H) if has_bias else None
    dy, dtotal = draw.values(R, H), draw.values(R, H) if has_residual else None
    y, total, statistics = operators.norm(draw.library, x, residual, weight, bias, 1e-5)
    if residual is not None:
        compare("sum", total, x.double() + residual.double(), draw.dtype)
    total64, weight64 = exact(total, weight)
    bias64 = exact(bias)
    if has_bias:
        reference = F.layer_norm(total64, [H], weight64, bias64[0], 1e-5)
    else:
        reference = F.rms_norm(total64, [H], weight64, 1e-5)
    compare("y", y, reference, draw.dtype)
    dx, gradients = operators.norm_backward(draw.library, dy, total, weight, statistics, dtotal)
    parts = torch.autograd.grad(reference, [total64, weight64, *bias64], dy.double())
    dx64 = parts[0] if dtotal is None else parts[0] + dtotal.double()
    compare("dx", dx, dx64, draw.dtype)
    for name, gradient, part in zip(("dweight", "dbias"), gradients, parts[1:], strict=False):
        compare(name, gradient, part, torch.float32)


def check_rotary(draw: Draw) -> None:
    B, S, N = draw.size(3, 2), draw.size(300, 9), draw.size(9, 3)
    half, spans = draw.width(16, 16), draw.random.randint(1, 4)
    turned = 2 * half * spans
    D = turned + draw.random.choice((0, 1, 8, 9))
    x = draw.values(B, S, N, D)
    angle = draw.vector(*([B] if draw.random.random() < 0.5 else []), S, half * spans,
                        dtype=torch.float32)  # fmt: skip
    by_span = angle.unflatten(-1, (spans, half))
    angle = torch.cat([by_span, by_span], -1).flatten(-2)
    cos, sin = angle.cos().contiguous(), angle.sin().contiguous()
    for sign in (1, -1):
        y = operators.rotary(draw.library, x, cos, sin, spans, sign)
        compare("y", y, rotate(x.double(), cos.double(), sign * sin.double(), spans), draw.dtype)


def check_activations(draw: Draw) -> None:
    R, H = draw.size(500, 9), draw.width(5000, 70)
    for kind in ("silu", "gelu", "gelu_tanh", "relu"):
        for has_gate in (True, False):
            x, dy = draw.values(R, H), draw.values(R, H)
            up = draw.values(R, H) if has_gate else None
            operands = exact(x, up)
            reference = gated(kind, *operands)
            compare(kind, operators.activation(draw.library, kind, x, up), reference, draw.dtype)
            results = operators.activation_backward(draw.library, kind, dy, x, up)
            parts = torch.autograd.grad(reference, operands, dy.double())
            for result, part in zip(results, parts, strict=False):
                compare(f"gradient of {kind}", result, part, draw.dtype)


def random_mask(draw: Draw, B: int, S: int, N: int) -> tuple[Tensor | None, ...]:
    slopes = prefix_ends = starts = None
    device = draw.library.device
    if draw.random.random() < 0.5:
        slopes = torch.tensor([2.0 ** -draw.random.uniform(1, 8) for _ in range(N)]).to(device)
    if draw.random.random() < 0.5:
        ends = torch.tensor([[draw.random.randint(0, S) if draw.random.random() < 0.02 else 0
                              for _ in range(S)] for _ in range(B)])  # fmt: skip
        prefix_ends = ends.cummax(-1).values.to(device)
    if draw.random.random() < 0.5:
        begins = torch.tensor([[p == 0 or draw.random.random() < 0.03 for p in range(S)]
                               for _ in range(B)])  # fmt: skip
        starts = (begins * torch.arange(S)).cummax(-1).values.to(device)
    return slopes, prefix_ends, starts


def check_attention(draw: Draw) -> None:
    B, S = draw.size(3, 2), draw.size(700, 150)
    K, group = draw.size(3, 1), draw.random.randint(1, 2 if draw.emulated else 4)
    N, D = K * group, draw.random.choice((64, 80, 96, 128))
    if draw.dtype == torch.float32:
        q, mask = draw.values(B, S, N, D), Mask.of(None, None, None)
        try:
            operators.attention(draw.library, q, q, q, mask)
        except OperatorError:
            return
        raise WrongResultError("float32 was not refused")
    packed = draw.values(B, S, N + 2 * K, D)
    q, k, v = packed.split([N, K, K], 2)
    dy, rules = draw.values(B, S, N, D), random_mask(draw, B, S, N)
    mask = Mask.of(*rules)
    y, log_sums = operators.attention(draw.library, q, k, v, mask)
    operands = exact(q, k, v)
    reference, log_sums64 = attention(*operands, *rules)
    compare("y", y, reference, draw.dtype)
    compare("log-sums", log_sums, log_sums64, torch.float32)
    results = operators.attention_backward(draw.library, q, k, v, mask, y, log_sums, dy)
    again = operators.attention_backward(draw.library, q, k, v, mask, y, log_sums, dy)
    parts = torch.autograd.grad(reference, operands, dy.double())
    for name, result, same, part in zip(("dq", "dk", "dv"), results, again, parts, strict=True):
        compare(name, result, part, draw.dtype)
        if not torch.equal(result, same):
            raise WrongResultError(f"{name} differs from one call to the next")


def check_cross_entropy(draw: Draw) -> None:
    R, H, V = draw.size(300, 9), draw.size(200, 20), 2 * draw.width(3000, 90)
    ignored, chunk = -100, draw.width(V, V)
    x, head = draw.values(R, H), (draw.values(H, V) / math.sqrt(H)).contiguous()
    labels = torch.tensor([ignored if draw.random.random() < 0.2 else draw.random.randrange(V)
                           for _ in range(R)]).to(draw.library.device)  # fmt: skip
    dlosses = draw.vector(R, dtype=torch.float32)
    half = V // 2
    ranks = [(head[:, :half].contiguous(), 0), (head[:, half:].contiguous(), half)]
    states = [
        operators.read_vocabulary(draw.library, x, columns, labels, first, chunk)
        for columns, first in ranks
    ]
    state = operators.joined(draw.library, states)
    losses, log_sums = operators.loss(draw.library, labels, ignored, state)
    x64, head64 = exact(x, head)
    reference = F.cross_entropy(x64 @ head64, labels, ignore_index=ignored, reduction="none")
    compare("losses", losses, reference, draw.dtype)
    parts = torch.autograd.grad(reference, [x64, head64], dlosses.double())
    results = [
        operators.loss_backward(
            draw.library, x, columns, labels, first, chunk, ignored, log_sums, dlosses
        )
        for columns, first in ranks
    ]
    compare("dx", results[0][0] + results[1][0], parts[0], draw.dtype)
    compare("dhead", torch.cat([dhead for _, dhead in results], 1), parts[1], draw.dtype)


def check_adamw(draw: Draw) -> None:
    sizes = [draw.width(50_000, 300) for _ in range(draw.random.randint(1, 60))]
    weights_dtype = draw.random.choice((torch.bfloat16, torch.float16))
    states = []
    for size in sizes:
        master = draw.vector(size, dtype=torch.float32)
        moments = [0.1 * draw.vector(size, dtype=torch.float32) for _ in range(2)]
        moments[1] = moments[1].abs()
        weights = master.to(weights_dtype) if draw.random.random() < 0.7 else None
        decay = draw.random.choice((0.0, 0.1))
        states.append(operators.AdamWState(master, *moments, draw.vector(size), weights, decay))
    step, rate, (beta1, beta2), epsilon, factor = 3, 0.01, (0.9, 0.95), 1e-8, 0.5
    references = []
    for state in states:
        w, m1, m2, g = (tensor.double() for tensor in state[:4])
        m1 = beta1 * m1 + (1 - beta1) * factor * g
        m2 = beta2 * m2 + (1 - beta2) * (factor * g) ** 2
        root = (m2 / (1 - beta2**step)).sqrt() + epsilon
        w = w * (1 - rate * state.weight_decay) - rate * m1 / (1 - beta1**step) / root
        references.append((w, m1, m2))
    operators.adamw(
        draw.library, states, weights_dtype=weights_dtype, factor=factor, learning_rate=rate,
        betas=(beta1, beta2), epsilon=epsilon, step=step,
    )  # fmt: skip
    for state, reference in zip(states, references, strict=True):
        for name, result, expected in zip(("w", "m1", "m2"), state[:3], reference, strict=True):
            compare(name, result, expected, torch.float32)
        if state.weights is not None and not torch.equal(
            state.weights, state.master.to(weights_dtype)
        ):
            raise WrongResultError("weights are not the rounded master")


def check_large_strides(draw: Draw) -> None:
    """Rows so far apart that 32 bits don't count the elements between the first and the last."""
    R, H, apart = 3, 2 * draw.size(40, 9), 2**30 + 8
    far = torch.empty((R - 1) * apart + H, dtype=draw.dtype, device=draw.library.device)
    x = far.as_strided((R, H), (apart, 1)).copy_(draw.values(R, H))
    weight, dy = draw.vector(H), draw.values(R, H)
    y, _, statistics = operators.norm(draw.library, x, None, weight, None, 1e-5)
    x64, weight64 = exact(x, weight)
    reference = F.rms_norm(x64, [H], weight64, 1e-5)
    compare("norm", y, reference, draw.dtype)
    dx, _ = operators.norm_backward(draw.library, dy, x, weight, statistics, None)
    compare("dx", dx, torch.autograd.grad(reference, x64, dy.double())[0], draw.dtype)
    y = operators.activation(draw.library, "silu", x, x)
    compare("silu", y, gated("silu", x.double(), x.double()), draw.dtype)
    angle = draw.vector(R, H // 2, dtype=torch.float32).repeat(1, 2)
    heads = x.view(1, R, 1, H)
    y = operators.rotary(draw.library, heads, angle.cos(), angle.sin(), 1, 1)
    turned = rotate(heads.double(), angle.cos().double(), angle.sin().double(), 1)
    compare("rotary", y, turned, draw.dtype)
    if draw.dtype != torch.float32:
        far = torch.empty((R - 1) * apart + 64, dtype=draw.dtype, device=draw.library.device)
        q = far.as_strided((1, R, 1, 64), (8, apart, 8, 1)).copy_(draw.values(1, R, 1, 64))
        y, _ = operators.attention(draw.library, q, q, q, Mask.of(None, None, None))
        expected, _ = attention(q.double(), q.double(), q.double(), None, None, None)
        compare("attention", y, expected, draw.dtype)


def check_refusals(draw: Draw) -> None:
    """What a caller gets wrong is said in words, before anything is queued."""
    q, mask = draw.vector(1, 2, 3, 64, dtype=torch.float16), Mask.of(None, None, None)
    two_heads, odd = q[:, :, :2], q[..., :40].contiguous()
    shifted = torch.zeros(2 * q.numel(), dtype=q.dtype, device=q.device)[1:][: q.numel()]
    for operands, words in (
        ((q, two_heads, two_heads), "key_heads divides heads"),
        ((odd, odd, odd), "64, 80, 96 or 128"),
        ((q, shifted.view(q.shape), q), "aligned to 16 bytes"),
    ):
        try:
            operators.attention(draw.library, *operands, mask)
        except OperatorError as error:
            if words not in str(error):
                raise WrongResultError(f"{error} doesn't say: {words}") from error
        else:
            raise WrongResultError(f"not refused: {words}")


CHECKS: dict[str, Callable[[Draw], None]] = {
    "norms": check_norms,
    "rotary": check_rotary,
    "activations": check_activations,
    "attention": check_attention,
    "cross entropy": check_cross_entropy,
    "adamw": check_adamw,
    "large strides": check_large_strides,
    "refusals": check_refusals,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library", type=Path)
    parser.add_argument("--emulated", action="store_true")
    parser.add_argument("--seeds", type=int, default=8, help="cases for each operator and dtype")
    parser.add_argument("--only", choices=CHECKS, action="append")
    arguments = parser.parse_args()
    library = Library(arguments.library, "cpu" if arguments.emulated else "cuda")
    failed = False
    for name in arguments.only or CHECKS:
        for seed in range(arguments.seeds):
            for dtype in TOLERANCE:
                draw = Draw(library, random.Random(seed), dtype, arguments.emulated)
                try:
                    CHECKS[name](draw)
                except (WrongResultError, OperatorError) as error:
                    print(f"{name}, seed {seed}: {error}")
                    failed = True
        print(f"{name}: {3 * arguments.seeds} cases", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
