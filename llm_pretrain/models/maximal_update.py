"""muP: a learning rate and initial weights that were tuned on a narrow model, for a wide one.

The maximal update parametrization (Yang et al., arXiv:2203.03466), Adam's columns of table 3. For a
model m times as wide as the one that the run's learning rate and `initializer_range` were tuned
on:

| tensors                                | initial values | learning rate |
|----------------------------------------|----------------|---------------|
| embedding, positions, norms, biases    | × 1            | × 1           |
| matrices of the blocks                 | × 1/√m         | × 1/m         |
| head                                   | × 1/m          | × 1/m         |

Nothing is multiplied in the forward pass, so that a trained model is one of its family like any
other. Where the paper multiplies what a layer computes by c, the layer's last weights begin c times
as large and learn c times as fast instead, which Adam, whose steps don't depend on the gradient's
size, makes the same up to its epsilon (the paper's lemma J.1):

- a tied head can't be scaled alone: the logits' 1/m (table 8) is that of the last norm, before it;
- attention's 1/d in place of 1/√d, d being the size of a head, is that of the queries: 1/√h for
  heads h times as large as the tuned ones, and nothing where heads grow in number alone;
- a residual branch of a model k times as deep counts 1/k (CompleteP, Dey et al., arXiv:2505.01618,
  with α = 1): that of the weights that end it.

Weight decay is decoupled, and takes `learning_rate` × `weight_decay` of every matrix at every
width, as the authors' program and CompleteP have it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from llm_pretrain.config import TrainingArguments
from llm_pretrain.config.model_config import ModelConfig

_MATRIX = re.compile(
    r"layers\.\d+\.(attention\.(query|key|value|output)|feed_forward\.(gate|up|down))\.weight"
)
_BRANCH_END = re.compile(r"layers\.\d+\.(attention\.output|feed_forward\.down)\.(weight|bias)")


@dataclass(frozen=True)
class Scale:
    """Factors of a tensor's initial values and of its learning rate."""

    initial: float = 1.0
    rate: float = 1.0

    def __mul__(self, other: Scale) -> Scale:
        return Scale(self.initial * other.initial, self.rate * other.rate)


class MaximalUpdate:
    """The scale of every tensor; without a base in `training` all are 1.

    Args:
        model: the model that is trained.
        training: the sizes of the model that was tuned; one that is None is the model's own.
    """

    def __init__(self, model: ModelConfig, training: TrainingArguments) -> None:
        self._model = model
        self.width = model.hidden_size / (training.mup_base_hidden_size or model.hidden_size)
        self.head = model.head_dim / (training.mup_base_head_dim or model.head_dim)
        layers = model.num_hidden_layers
        self.depth = layers / (training.mup_base_num_hidden_layers or layers)

    def scale(self, name: str) -> Scale:
        """Of the tensor of a canonical name."""
        model = self._model
        found = Scale()
        if name == "head.weight" or (model.tie_word_embeddings and name.startswith("norm.")):
            found *= Scale(1 / self.width, 1 / self.width)
        if _MATRIX.fullmatch(name):
            found *= Scale(1 / math.sqrt(self.width), 1 / self.width)
        if _BRANCH_END.fullmatch(name):
            found *= Scale(1 / self.depth, 1 / self.depth)
            if model.small_branch_ends:
                # They are smaller by √(2 · layers) already; the base's is what counts.
                found *= Scale(initial=math.sqrt(self.depth))
        scores = "attention.query_norm." if model.query_key_norm else "attention.query."
        if scores in name:
            found *= Scale(1 / math.sqrt(self.head), 1 / math.sqrt(self.head))
        return found

    def rate(self, name: str) -> float:
        """The factor of the learning rate of the tensor of a canonical name."""
        return self.scale(name).rate

    def describe(self) -> Iterator[str]:
        """A line on each scale that is not 1."""
        tensors: dict[Scale, dict[str, None]] = {}
        for name in self._model.tensor_shapes():
            kind = re.sub(r"layers\.\d+\.", "", name).removesuffix(".weight")
            tensors.setdefault(self.scale(name), {})[kind] = None
        for scale, kinds in tensors.items():
            if scale != Scale():
                yield (
                    f"muP: learning rate × {scale.rate:.4g}, initial values × {scale.initial:.4g}: "
                    f"{', '.join(kinds)}"
                )

    def problems(self) -> Iterator[str]:
        """Why this model can't be scaled from the one that was tuned."""
        model = self._model
        if model.norm_head and self.width != 1:
            yield (
                "mup_base_hidden_size: the head divides its rows by their lengths, which muP does "
                "not cover; leave it out for this model"
            )
        if model.residual_from_norm and self.depth != 1:
            yield (
                "mup_base_num_hidden_layers: the branches are added to normalised inputs, which "
                "CompleteP does not cover; leave it out for this model"
            )
        if model.fuse_attention_qkv and self.head != 1 and not model.query_key_norm:
            yield (
                "mup_base_head_dim: the queries learn at another rate than the keys, which "
                "fuse_attention_qkv keeps in one weight with them; set that to false"
            )
