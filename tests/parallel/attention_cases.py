"""What attention is given, in every layout."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llm_pretrain.models.position import alibi_slopes

LENGTH, SIZE = 48, 4
SAMPLES, SEED, PLACE = (5, 9), 3, "layers.0.attention"


@dataclass(frozen=True)
class Case:
    """Options of attention, over whole samples."""

    heads: int = 4
    key_heads: int = 4
    dropout: float = 0.0
    dtype: str = "float32"
    flash: bool = False
    slopes: np.ndarray | None = None
    prefix_ends: np.ndarray | None = None
    document_starts: np.ndarray | None = None

    def arrays(self) -> list[np.ndarray]:
        """Whole queries, keys, values, and the gradient of the output."""
        generator = np.random.default_rng(0)
        counts = (self.heads, self.key_heads, self.key_heads, self.heads)
        return [generator.standard_normal((len(SAMPLES), LENGTH, n, SIZE)) for n in counts]


PREFIX = np.array([[29] * 48, [7] * 18 + [40] * 30])
DOCUMENTS = np.array([[0] * 20 + [20] * 5 + [25] * 23, [0] * 47 + [47]])
CASES = {
    "multi-head": Case(),
    "grouped": Case(heads=8, key_heads=4),
    "multi-query": Case(key_heads=1),
    "unequal": Case(heads=12, key_heads=3),
    "dropout": Case(key_heads=2, dropout=0.3),
    "slopes": Case(slopes=alibi_slopes(4)),
    "prefix": Case(prefix_ends=PREFIX, dropout=0.2),
    "documents": Case(document_starts=DOCUMENTS),
    "all": Case(12, 6, 0.2, "float32", False, alibi_slopes(12), PREFIX, DOCUMENTS),
    "flash": Case(12, 6, 0.2, "float32", True, alibi_slopes(12), PREFIX, DOCUMENTS),
    "bfloat16": Case(key_heads=2, dtype="bfloat16"),
    "unequal bfloat16": Case(12, 3, dtype="bfloat16"),
    "unequal float16": Case(12, 3, dtype="float16", flash=True),
    "unequal all": Case(20, 5, 0.2, "float32", True, alibi_slopes(20), PREFIX, DOCUMENTS),
}
