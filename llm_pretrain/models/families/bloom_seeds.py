"""Published configs of BLOOM and BLOOMZ, by the names that users type; no network is needed.

The sizes are those of the published config.json files (arXiv:2211.05100, table 3).
"""

from __future__ import annotations

from typing import Any


def _sizes(hidden: int, layers: int, heads: int, vocabulary: int = 250880) -> dict[str, Any]:
    return {
        "model_type": "bloom",
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "n_layer": layers,
        "n_head": heads,
        "seq_length": 2048,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 3,
    }


_PUBLISHED = {
    "-560m": _sizes(1024, 24, 16),
    "-1b1": _sizes(1536, 24, 16),
    "-1b7": _sizes(2048, 24, 16),
    "-3b": _sizes(2560, 30, 32),
    "-7b1": _sizes(4096, 30, 32),
    "": _sizes(14336, 70, 112),
}

SEEDS: dict[str, dict[str, Any]] = {
    f"bigscience/{kind}{size}": published
    for kind in ("bloom", "bloomz")
    for size, published in _PUBLISHED.items()
} | {
    # The first names of the 1b7 models, which count no embedding.
    "bigscience/bloom-1b3": _PUBLISHED["-1b7"],
    "bigscience/bloomz-1b3": _PUBLISHED["-1b7"],
    "bigscience/bloom-560m-bf16": _PUBLISHED["-560m"],
    "bigscience/bloomz-7b1-mt": _PUBLISHED["-7b1"],
    "bigscience/bloomz-7b1-p3": _PUBLISHED["-7b1"],
    "bellegroup/belle-7b-2m": _PUBLISHED["-7b1"],
    "bigscience/bloomz-mt": _PUBLISHED[""],
    # The architecture at a size at which any layout can be tried on a laptop.
    "tiny/bloom": _sizes(64, 5, 8, vocabulary=130) | {"seq_length": 64, "initializer_range": 0.05},
}

CAPABILITIES = {"Bloom-176B": "tiny/bloom"}
"""Models of the capability table, each with the seed of its architecture that the tests run."""
