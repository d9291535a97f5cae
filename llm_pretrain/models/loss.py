"""The loss of language modelling."""

from __future__ import annotations

from paddle import Tensor

from llm_pretrain.parallel.tensor import vocabulary_parallel_cross_entropy

IGNORED_LABEL = -100


def language_model_loss(logits_BSV: Tensor, labels_BS: Tensor, label_count: int) -> Tensor:
    """Cross entropy summed over the labels that are not `IGNORED_LABEL`, over `label_count`.

    A float32 scalar. `label_count` is that of the whole samples, of which this rank may hold a
    part. Where every label is ignored the loss is 0, with gradients of 0.
    """
    losses_BS = vocabulary_parallel_cross_entropy(logits_BSV, labels_BS, IGNORED_LABEL)
    return losses_BS.sum() / label_count
