"""The operators as functions of tensors, for the checks and the benchmark.

Shapes: B batch, S length, N query heads, K key heads, D head size, R rows, H width, V vocabulary.
"""

from __future__ import annotations

from ctypes import c_int
from typing import NamedTuple

import torch
from library import KINDS, AdamWTensor, Heads, Library, Mask, Matrix
from torch import Tensor


def _floats(like: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, device=like.device)


def norm(
    library: Library,
    x_RH: Tensor,
    residual_RH: Tensor | None,
    weight_H: Tensor,
    bias_H: Tensor | None,
    epsilon: float,
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Layer norm, or RMSNorm where there is no bias: y, what was normalised, statistics."""
    R, H = x_RH.shape
    y = torch.empty(R, H, dtype=x_RH.dtype, device=x_RH.device)
    total = x_RH if residual_RH is None else torch.empty_like(y)
    parameters = [weight_H] if bias_H is None else [weight_H, bias_H]
    statistics = [_floats(x_RH, R) for _ in parameters]  # the inverse; before it the mean
    library(
        "rms_norm" if bias_H is None else "layer_norm", R, H, x_RH.dtype, Matrix.of(x_RH),
        Matrix.of(residual_RH), Matrix.of(total), *parameters, epsilon, Matrix.of(y), *statistics,
    )  # fmt: skip
    return y, total, statistics


def norm_backward(
    library: Library,
    dy_RH: Tensor,
    total_RH: Tensor,
    weight_H: Tensor,
    statistics: list[Tensor],
    dtotal_RH: Tensor | None,
) -> tuple[Tensor, list[Tensor]]:
    """dx, and the gradients of weight and, where there is one, bias."""
    R, H = dy_RH.shape
    dx = torch.empty(R, H, dtype=dy_RH.dtype, device=dy_RH.device)
    gradients = [_floats(dy_RH, H) for _ in statistics]
    library(
        "rms_norm_backward" if len(statistics) == 1 else "layer_norm_backward", R, H, dy_RH.dtype,
        Matrix.of(dy_RH), Matrix.of(total_RH), weight_H, *statistics, Matrix.of(dtotal_RH),
        Matrix.of(dx), *gradients, library.norm_workspace(R, H),
    )  # fmt: skip
    return dx, gradients


def rotary(
    library: Library, x_BSND: Tensor, cos: Tensor, sin: Tensor, spans: int, sign: int
) -> Tensor:
    """x rotated; cos and sin [S, R] or [B, S, R]."""
    y = torch.empty_like(x_BSND, memory_format=torch.contiguous_format)
    table_stride = cos.stride(0) if cos.ndim == 3 else 0
    library(
        "rotary", *x_BSND.shape, cos.shape[-1], spans, x_BSND.dtype, Heads.of(x_BSND), cos, sin,
        table_stride, c_int(sign), Heads.of(y),
    )  # fmt: skip
    return y


def activation(library: Library, kind: str, x_RH: Tensor, up_RH: Tensor | None) -> Tensor:
    y = torch.empty_like(x_RH, memory_format=torch.contiguous_format)
    library("activation", *x_RH.shape, c_int(KINDS[kind]), x_RH.dtype,
            *(Matrix.of(x) for x in (x_RH, up_RH, y)))  # fmt: skip
    return y


def activation_backward(
    library: Library, kind: str, dy_RH: Tensor, x_RH: Tensor, up_RH: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    dx = torch.empty_like(x_RH, memory_format=torch.contiguous_format)
    dup = None if up_RH is None else torch.empty_like(dx)
    library("activation_backward", *x_RH.shape, c_int(KINDS[kind]), x_RH.dtype,
            *(Matrix.of(x) for x in (dy_RH, x_RH, up_RH, dx, dup)))  # fmt: skip
    return dx, dup


def attention(
    library: Library, q_BSND: Tensor, k_BSKD: Tensor, v_BSKD: Tensor, mask: Mask
) -> tuple[Tensor, Tensor]:
    """y, and log-sums [B, N, S]."""
    B, S, N, D = q_BSND.shape
    y = torch.empty(B, S, N, D, dtype=q_BSND.dtype, device=q_BSND.device)
    log_sums = _floats(q_BSND, B, N, S)
    operands = [Heads.of(x) for x in (q_BSND, k_BSKD, v_BSKD)]
    library("flash_attention", B, S, N, k_BSKD.shape[2], D, q_BSND.dtype, *operands, mask,
            Heads.of(y), log_sums)  # fmt: skip
    return y, log_sums


def attention_backward(
    library: Library,
    q_BSND: Tensor,
    k_BSKD: Tensor,
    v_BSKD: Tensor,
    mask: Mask,
    y_BSND: Tensor,
    log_sums_BNS: Tensor,
    dy_BSND: Tensor,
) -> list[Tensor]:
    """dq, dk, dv."""
    B, S, N, D = q_BSND.shape
    operands = (q_BSND, k_BSKD, v_BSKD)
    gradients = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in operands]
    library(
        "flash_attention_backward", B, S, N, k_BSKD.shape[2], D, q_BSND.dtype,
        *(Heads.of(x) for x in operands), mask, Heads.of(y_BSND), log_sums_BNS, Heads.of(dy_BSND),
        torch.empty_like(log_sums_BNS), *(Heads.of(x) for x in gradients),
    )  # fmt: skip
    return gradients


class VocabularyState(NamedTuple):
    """What one rank knows of its part of the vocabulary, each [R]."""

    maximum: Tensor
    total: Tensor
    label_logit: Tensor


def read_vocabulary(
    library: Library, x_RH: Tensor, head_HV: Tensor, labels_R: Tensor, first: int, chunk: int
) -> VocabularyState:
    """Go through the logits of a rank's columns, the entries from `first` on, in chunks."""
    R = len(x_RH)
    state = VocabularyState(*(_floats(x_RH, R) for _ in range(3)))
    library("cross_entropy_begin", R, *state)
    for columns in range(0, head_HV.shape[1], chunk):
        logits = x_RH @ head_HV[:, columns : columns + chunk]
        library("cross_entropy_add", *logits.shape, logits.dtype, Matrix.of(logits), labels_R,
                first + columns, *state)  # fmt: skip
    return state


def joined(library: Library, states: list[VocabularyState]) -> VocabularyState:
    """The whole vocabulary's state, of all ranks': what all-reduces do between devices."""
    maximum = torch.stack([state.maximum for state in states]).amax(0)
    for state in states:
        library("cross_entropy_rescale", len(maximum), state.maximum, maximum, state.total)
    total = torch.stack([state.total for state in states]).sum(0)
    return VocabularyState(maximum, total, torch.stack([s.label_logit for s in states]).sum(0))


def loss(
    library: Library, labels_R: Tensor, ignore_index: int, state: VocabularyState
) -> tuple[Tensor, Tensor]:
    """Losses and log-sums [R]."""
    losses, log_sums = torch.empty_like(state.total), torch.empty_like(state.total)
    library("cross_entropy_loss", len(labels_R), labels_R, ignore_index, *state, losses, log_sums)
    return losses, log_sums


def loss_backward(
    library: Library,
    x_RH: Tensor,
    head_HV: Tensor,
    labels_R: Tensor,
    first: int,
    chunk: int,
    ignore_index: int,
    log_sums_R: Tensor,
    dlosses_R: Tensor,
) -> tuple[Tensor, Tensor]:
    """A rank's part of dx, float32, and the gradient of its columns."""
    dx, dhead = torch.zeros(x_RH.shape, device=x_RH.device), torch.empty_like(head_HV)
    for columns in range(0, head_HV.shape[1], chunk):
        part = head_HV[:, columns : columns + chunk]
        logits = x_RH @ part
        library("cross_entropy_backward", *logits.shape, logits.dtype, Matrix.of(logits), labels_R,
                first + columns, ignore_index, log_sums_R, dlosses_R)  # fmt: skip
        dx += logits @ part.T
        dhead[:, columns : columns + chunk] = x_RH.T @ logits
    return dx, dhead


class AdamWState(NamedTuple):
    """One tensor's arrays, each [size], and its rate of decay."""

    master: Tensor
    moment1: Tensor
    moment2: Tensor
    gradient: Tensor
    weights: Tensor | None
    weight_decay: float


def adamw(
    library: Library,
    states: list[AdamWState],
    *,
    weights_dtype: torch.dtype,
    factor: float,
    learning_rate: float,
    betas: tuple[float, float],
    epsilon: float,
    step: int,
) -> None:
    """Step number `step` (from 1), in place."""
    addresses = [[None if x is None else x.data_ptr() for x in state[:5]] for state in states]
    tensors = (AdamWTensor * len(states))(
        *(
            AdamWTensor(state.master.numel(), *pointers, state.weight_decay)
            for state, pointers in zip(states, addresses, strict=True)
        )
    )
    corrections = (1 - beta**step for beta in betas)
    library("adamw", len(states), tensors, states[0].gradient.dtype, weights_dtype, factor,
            learning_rate, *betas, epsilon, *corrections)  # fmt: skip
