"""What a training step really allocates with each kind of recompute.

Usage: recompute_memory_worker.py FILE, which gets {kind: peak} in multiples of the hidden states.
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path

from llm_pretrain.models.decoder import Decoder
from llm_pretrain.training.stage import apply_recompute
from tests.models.small import small_model

LAYERS, HIDDEN, BATCH, LENGTH = 6, 128, 2, 256
KINDS = {
    "none": None,
    "core_attn": ("core_attn", ()),
    "full_attn": ("full_attn", ()),
    "full": ("full", ()),
    "no_recompute_layers": ("full", (0, 1, 2)),
}


def model() -> Decoder:
    return small_model(
        num_hidden_layers=LAYERS,
        hidden_size=HIDDEN,
        intermediate_size=3 * HIDDEN,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=HIDDEN // 4,
        max_position_embeddings=LENGTH,
    )


def measure(kind: str) -> float:
    import paddle
    from paddle.base import core

    decoder = model()
    if recompute := KINDS[kind]:
        granularity, left_out = recompute
        apply_recompute(decoder.blocks, granularity, except_layers=left_out)
    tokens = paddle.arange(BATCH * LENGTH).reshape([BATCH, LENGTH]) % decoder.config.vocab_size

    def step() -> None:
        decoder(tokens, labels_BS=tokens).mean().backward()

    step()  # so that gradients and tables are there
    gc.collect()
    before = core.host_memory_stat_current_value("Allocated", 0)
    core.host_memory_stat_reset_peak_value("Allocated", 0)
    step()
    peak = core.host_memory_stat_peak_value("Allocated", 0) - before
    return peak / (BATCH * LENGTH * HIDDEN * 4)


if __name__ == "__main__":
    import paddle  # after llm_pretrain, whose settings must come first

    paddle.device.set_device("cpu")
    Path(sys.argv[1]).write_text(json.dumps({kind: measure(kind) for kind in KINDS}))
