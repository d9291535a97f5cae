"""What a process really holds at each sharding stage.

Usage: sharding_memory_worker.py DIRECTORY; every rank writes {stage: measured} to
DIRECTORY/RANK.json, in multiples of the weights' bytes.
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path

from llm_pretrain.config import Degrees, TrainingArguments
from llm_pretrain.models.decoder import Decoder
from llm_pretrain.ops.native import library
from llm_pretrain.parallel.comm import collectives, topology
from llm_pretrain.parallel.sharding.optimizer import LossScale, ShardedAdamW
from llm_pretrain.parallel.sharding.pieces import initialize
from tests.models.small import small_config

BLOCKS = 8


def measure(stage: int, here: topology.Topology) -> dict[str, float]:
    import paddle
    from paddle.base import core

    def held() -> int:
        gc.collect()
        return core.host_memory_stat_current_value("Allocated", 0)

    before = held()
    model = Decoder(
        small_config(
            hidden_size=512,
            intermediate_size=1536,
            num_hidden_layers=BLOCKS,
            num_attention_heads=8,
            num_key_value_heads=8,
            head_dim=64,
        )
    )
    initialize(model, 0)
    whole = sum(value.size * value.element_size() for value in model.parameters())
    assert whole > 100e6
    training = TrainingArguments(output_dir="out", max_steps=2, sharding=f"stage{stage}")
    optimizer = ShardedAdamW(model, training, here, tied_embedding=False)
    tokens = paddle.arange(8).reshape([1, 8])

    def micro_batch() -> None:
        model(tokens).mean().backward()

    micro_batch()
    optimizer.step(float(optimizer.reduce_gradients()), 1e-3, LossScale(1.0, is_dynamic=False))
    micro_batch()
    between = held() - before
    core.host_memory_stat_reset_peak_value("Allocated", 0)
    micro_batch()
    optimizer.step(float(optimizer.reduce_gradients()), 1e-3, LossScale(1.0, is_dynamic=False))
    peak = core.host_memory_stat_peak_value("Allocated", 0) - before
    return {"between micro-batches": between / whole, "peak of a step": peak / whole}


def main(directory: Path) -> None:
    import paddle  # after llm_pretrain, whose settings must come first

    paddle.device.set_device("cpu")
    library._LEAST = 1 << 62  # all memory is Paddle's, whose allocator counts it
    here = topology.initialize(
        Degrees(
            data=1,
            sharding=topology.world_size(),
            tensor=1,
            pipeline=1,
            sep=1,
            context=1,
            virtual_pipeline=1,
        )
    )
    found = {stage: measure(stage, here) for stage in (1, 2, 3)}
    (directory / f"{here.rank}.json").write_text(json.dumps(found))
    collectives.barrier()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
