"""The older form of the data, as programs wrote it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike


def write_npy(prefix: Path, tokens: ArrayLike, lens: ArrayLike, docs: ArrayLike) -> None:
    """Write `<prefix>_ids.npy` and `<prefix>_idx.npz`."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    np.save(f"{prefix}_ids.npy", np.asarray(tokens))
    np.savez(f"{prefix}_idx.npz", lens=np.asarray(lens), docs=np.asarray(docs))
