"""What the operators compute, in the plainest PyTorch, to be differentiated in float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def rotate(x_BSND: Tensor, cos: Tensor, sin: Tensor, spans: int) -> Tensor:
    """The first R features rotated in equal spans; cos and sin [S, R] or [B, S, R]."""
    turned, rest = x_BSND.split([cos.shape[-1], x_BSND.shape[-1] - cos.shape[-1]], -1)
    cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
    a, b = turned.unflatten(-1, (spans, -1)).chunk(2, -1)
    quarter_turned = torch.cat([-b, a], -1).flatten(-2)
    return torch.cat([turned * cos + quarter_turned * sin, rest], -1)


def gated(kind: str, x: Tensor, up: Tensor | None = None) -> Tensor:
    """f(x), or f(x) · up."""
    if kind == "gelu_tanh":
        y = F.gelu(x, approximate="tanh")
    else:
        y = {"silu": F.silu, "gelu": F.gelu, "relu": F.relu}[kind](x)
    return y if up is None else y * up


def visible(
    S: int, prefix_ends_BS: Tensor | None, starts_BS: Tensor | None, device: torch.device
) -> Tensor:
    """Which keys (last) a query sees, [B or 1, 1, S, S]."""
    positions = torch.arange(S, device=device)
    seen = (positions <= positions[:, None])[None]
    if prefix_ends_BS is not None:
        seen = seen | (positions < prefix_ends_BS[:, :, None])
    if starts_BS is not None:
        seen = seen & (positions >= starts_BS[:, :, None])
    return seen.unsqueeze(1)


def attention(
    q_BSND: Tensor,
    k_BSKD: Tensor,
    v_BSKD: Tensor,
    slopes_N: Tensor | None,
    prefix_ends_BS: Tensor | None,
    starts_BS: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """y, and log-sums [B, N, S]."""
    S, N, D = q_BSND.shape[1:]
    group = N // k_BSKD.shape[2]
    k, v = (x.repeat_interleave(group, 2).transpose(1, 2) for x in (k_BSKD, v_BSKD))
    scores = q_BSND.transpose(1, 2) @ k.transpose(2, 3) / math.sqrt(D)
    if slopes_N is not None:
        positions = torch.arange(S, device=q_BSND.device)
        scores = scores + slopes_N.double()[:, None, None] * (positions - positions[:, None])
    scores = scores.masked_fill(~visible(S, prefix_ends_BS, starts_BS, q_BSND.device), -math.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2), scores.logsumexp(-1)
