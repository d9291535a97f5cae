"""What ops.py measures: the operators of a training step, and the least work that each of them is.

B batch, S sequence, R = B S tokens, H hidden, N heads, D = H / N, F feed-forward, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

BYTES = {"float32": 4, "bfloat16": 2}
DEVIATION = 0.02
"""Standard deviation of all operands, that of new weights. With large logits most probabilities
would be subnormal numbers, whose products take many times as long."""


class Sizes(NamedTuple):
    """Of a step, and of what the machine's own speed is measured with."""

    batch: int
    sequence: int
    hidden: int
    feed_forward: int
    heads: int
    vocabulary: int
    parameters: int
    # Rows and columns of the product whose speed is taken for the machine's.
    square: int
    # Of the arrays that the speed of memory is measured with.
    array_mib: tuple[int, ...]

    @property
    def tokens(self) -> int:
        return self.batch * self.sequence

    @property
    def heads_shape(self) -> list[int]:
        """[B, S, N, D]"""
        return [self.batch, self.sequence, self.heads, self.hidden // self.heads]

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of the linear maps: query, key and value; gate and up; down."""
        H, F = self.hidden, self.feed_forward
        return {f"linear {i} × {o}": (i, o) for i, o in ((H, 3 * H), (H, 2 * F), (F, H))}

    @property
    def scalings(self) -> dict[str, int]:
        """Bytes of the arrays that are multiplied by a number in place.

        Of all simple loops it alone moves no more than it names: a copy also reads what it is about
        to overwrite.
        """
        return {f"scaling of {mib} MiB": mib << 20 for mib in self.array_mib}


SIZES = {
    "base": Sizes(2, 512, 768, 2048, 12, 32_000, 125_000_000, 4096, (4, 32, 256, 2048)),
    "tiny": Sizes(1, 16, 64, 128, 4, 256, 1000, 64, (1, 2)),
}


class Work(NamedTuple):
    """Of one pass: floating-point operations of its products, and numbers read and written.

    What is computed a second time to save memory doesn't count, nor do operations outside products:
    those are done while memory is waited for.
    """

    flops: float
    numbers: float

    def least_seconds(self, dtype: str, speed: float, bandwidths: Mapping[int, float]) -> float:
        """The roofline (Williams et al., doi:10.1145/1498765.1498785).

        Args:
            speed: FLOP/s of products in `dtype`.
            bandwidths: bytes/s read and written, by the bytes of the array. That of the array
                nearest in size to the work counts: what is small stays in the caches.
        """
        moved = self.numbers * BYTES[dtype]
        nearest = min(bandwidths, key=lambda size: abs(math.log(size / moved)))
        return max(self.flops / speed, moved / bandwidths[nearest])


def works(sizes: Sizes) -> dict[str, dict[str, Work]]:
    """By operator and by pass, of one training step's size."""
    R, H, F, V = sizes.tokens, sizes.hidden, sizes.feed_forward, sizes.vocabulary
    # Scores below the diagonal, times a head's size.
    scores = R * sizes.sequence / 2 * H
    return {
        **{name: _linear(R, i, o) for name, (i, o) in sizes.linears.items()},
        "RMSNorm": _both(Work(0, 2 * R * H), Work(0, 3 * R * H)),
        "LayerNorm": _both(Work(0, 2 * R * H), Work(0, 3 * R * H)),
        "rotary": _both(Work(0, 4 * R * H), Work(0, 4 * R * H)),
        "SwiGLU": _both(Work(0, 3 * R * F), Work(0, 5 * R * F)),
        "causal attention": _both(Work(4 * scores, 4 * R * H), Work(8 * scores, 8 * R * H)),
        # The gradient is a whole table.
        "embedding": _both(Work(0, 2 * R * H), Work(0, R * H + V * H)),
        "linear + cross entropy": _both(
            Work(2 * R * H * V, R * H + H * V), Work(4 * R * H * V, 2 * (R * H + H * V))
        ),
        # Reads weights, two moments and the gradient; writes all but the gradient.
        "AdamW": {"step": Work(0, 7 * sizes.parameters)},
    }


def dtypes(operator: str) -> list[str]:
    """AdamW's weights and moments are float32 in every precision."""
    return ["float32"] if operator == "AdamW" else list(BYTES)


def _linear(rows: int, inputs: int, outputs: int) -> dict[str, Work]:
    x, weight, y = rows * inputs, inputs * outputs, rows * outputs
    product = 2 * rows * inputs * outputs
    return _both(Work(product, x + weight + y), Work(2 * product, y + 2 * (x + weight)))


def _both(forward: Work, backward: Work) -> dict[str, Work]:
    return {"forward": forward, "backward": backward}
