"""The loss of language modelling."""

from __future__ import annotations

import paddle
from paddle import Tensor

from llm_pretrain.parallel.tensor import vocabulary_parallel_cross_entropy

IGNORED_LABEL = -100


def language_model_loss(logits_BSV: Tensor, labels_BS: Tensor) -> Tensor:
    """Mean cross entropy over the labels that are not `IGNORED_LABEL`, a float32 scalar.

    Where every label is ignored it is 0, with gradients of 0.
    """
    losses_BS = vocabulary_parallel_cross_entropy(logits_BSV, labels_BS, IGNORED_LABEL)
    count = (labels_BS != IGNORED_LABEL).astype("float32").sum()
    return losses_BS.sum() / paddle.clip(count, min=1.0)
