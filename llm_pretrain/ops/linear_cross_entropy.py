"""The loss of a token; and the head and its loss in slices of the vocabulary, so that the logits
are never in memory whole.

Forward goes through the vocabulary once for what the softmax needs of each row; backward once more
for the gradients, from logits that are computed again.

Shapes: R rows (tokens), H hidden, V vocabulary.
"""

from __future__ import annotations

import paddle
from paddle import Tensor
from paddle.nn import functional as F

from llm_pretrain.ops.cuda import linear_cross_entropy as cuda
from llm_pretrain.ops.linear import linear
from llm_pretrain.ops.native import linear_cross_entropy as native
from llm_pretrain.ops.operator import Draw, NotTakenError, Operator, Work
from llm_pretrain.ops.vocabulary_slices import gradients_of_slices, logits_of_slices
from llm_pretrain.ops.workload import Workload

LINEAR_CROSS_ENTROPY = Operator(
    "linear_cross_entropy", switch="use_fused_linear_cross_entropy", cpp=native, cuda=cuda
)

_MOST_LOGITS = 1 << 28
"""That are weighed up against none: where they would take more than 1 GiB in float32, memory
counts more than time."""


def cross_entropy(logits: Tensor, labels: Tensor, ignore_index: int = -100) -> Tensor:
    """log(sum(exp(z))) - z[label] per token, in float32.

    On CPU Paddle's kernel cuts the loss of a token at 64, but not its gradient.

    Args:
        logits: [..., V].
        labels: integers [...]; a token whose label is `ignore_index` has loss 0 and no gradient.

    Returns:
        float32 [...].
    """
    losses = F.cross_entropy(
        logits.astype("float32"), labels, ignore_index=ignore_index, reduction="none"
    )
    return losses.reshape(labels.shape)


@LINEAR_CROSS_ENTROPY.reference
def serves_head(x: Tensor, weight: Tensor) -> bool:
    """Whether C++ or CUDA serves the head, so that it is faster without logits."""
    return False


@LINEAR_CROSS_ENTROPY.reference
def linear_log_sums(
    x_RH: Tensor, weight: Tensor, labels_R: Tensor, *, vocabulary: int, transposed: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """What cross entropy needs of the logits z = x W.

    Args:
        x_RH: in the compute dtype.
        weight: [H, V], or [V, H] if `transposed`; what stands beyond `vocabulary` is left out.
        labels_R: int64; -1 for none.

    Returns:
        max(z), sum(exp(z - max(z))) and z[label] (0 without label), float32 [R] each.
    """
    largest = paddle.full(labels_R.shape, -float("inf"), "float32")
    total, target = paddle.zeros_like(largest), paddle.zeros_like(largest)
    for logits_RV, begin in logits_of_slices(x_RH, weight, vocabulary, transposed=transposed):
        z_RV = logits_RV.astype("float32")
        bound = paddle.maximum(largest, z_RV.max(-1))
        total = total * (largest - bound).exp() + (z_RV - bound.unsqueeze(-1)).exp().sum(-1)
        largest = bound
        target += (z_RV * _is_label(labels_R - begin, z_RV)).sum(-1)
    return largest, total, target


@LINEAR_CROSS_ENTROPY.reference
def linear_cross_entropy_gradients(
    x_RH: Tensor,
    weight: Tensor,
    labels_R: Tensor,
    log_sums_R: Tensor,
    factors_R: Tensor,
    *,
    vocabulary: int,
    transposed: bool = False,
    dweight: Tensor | None,
    accumulate: bool = False,
) -> Tensor:
    """With dz = factor · (exp(z - log_sum) - [column is the label]): dx = dz Wᵀ, float32 [R, H].

    xᵀ dz goes into `dweight`, float32 and laid out as `weight`, where it is given; it is added to
    what is there if `accumulate`.
    """

    def to_gradients(logits_RV: Tensor, begin: int) -> Tensor:
        z_RV = logits_RV.astype("float32")
        softmax = (z_RV - log_sums_R.unsqueeze(-1)).exp_()
        dz = softmax.subtract_(_is_label(labels_R - begin, z_RV))
        return dz.multiply_(factors_R.unsqueeze(-1)).astype(logits_RV.dtype)

    return gradients_of_slices(
        *(to_gradients, x_RH, weight, vocabulary),
        transposed=transposed,
        dweight=dweight,
        accumulate=accumulate,
    )


def _is_label(labels_R: Tensor, z_RV: Tensor) -> Tensor:
    """1 in the column of each row's label, float32; labels outside are in none."""
    width = z_RV.shape[-1]
    inside = (labels_R >= 0) & (labels_R < width)
    columns = F.one_hot(paddle.where(inside, labels_R, paddle.zeros_like(labels_R)), width)
    return columns * inside.astype("float32").unsqueeze(-1)


@LINEAR_CROSS_ENTROPY.self_test
def _example(draw: Draw) -> list[Tensor]:
    x, weight = draw(6, 16).detach(), draw(16, 40).detach()
    labels = paddle.to_tensor([3, 39, -1, 0, 7, 7])
    statistics = linear_log_sums(x, weight, labels, vocabulary=37)
    dweight = paddle.zeros([16, 40])
    factors, log_sums = draw.in_float32(6).detach(), statistics[0] + statistics[1].log()
    dx = linear_cross_entropy_gradients(
        x, weight, labels, log_sums, factors, vocabulary=37, dweight=dweight
    )
    return [*statistics, dx, dweight]


@LINEAR_CROSS_ENTROPY.work_of_a_run
def _work(draw: Draw, of: Workload) -> Work:
    """The head and its loss; by the reference with logits, which are Paddle's own operators."""
    R, V = of.rows, of.vocabulary
    x = draw.large(of.compute_dtype, R, of.hidden)
    weight = draw.large(of.weight_dtype, of.hidden, V)
    labels = paddle.arange(R, dtype="int64") % V
    factors = paddle.full([R], 1 / R, "float32")

    def both_passes() -> list[Tensor]:
        if serves_head(x, weight):
            plain = x.detach(), weight.detach(), labels
            largest, total, target = linear_log_sums(*plain, vocabulary=V)
            log_sums, dweight = largest + total.log(), paddle.empty(weight.shape, "float32")
            dx = linear_cross_entropy_gradients(
                *plain, log_sums, factors, vocabulary=V, dweight=dweight
            )
            return [log_sums - target, dx, dweight]
        if R * V > _MOST_LOGITS:
            raise NotTakenError
        losses = cross_entropy(linear(x, weight), labels)
        return [losses, *paddle.grad([losses], [x, weight], [factors])]

    return both_passes
