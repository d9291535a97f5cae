"""The loss of a token."""

from __future__ import annotations

from paddle import Tensor
from paddle.nn import functional as F


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
