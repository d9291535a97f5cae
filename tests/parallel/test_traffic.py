"""What a step communicates, by group and operation, is what theory says: no layout does it twice.

Counted are the bytes of the whole tensor of an operation. Of these every rank sends 2 (n - 1) / n
in an all-reduce over n ranks, and (n - 1) / n in a reduce-scatter, an all-gather or an all-to-all.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llm_pretrain.models.families import read_model_config
from tests.launching import run_job
from tests.small_runs import small_config, write_config, write_data, write_model

WORKER = Path(__file__).with_name("traffic_worker.py")
FLOAT = 4
LAYERS, HIDDEN, FEED_FORWARD, VOCABULARY = 4, 64, 128, 128
MICRO_BATCHES, BATCH, LENGTH = 4, 2, 32
HEADS, KEY_HEADS, HEAD_SIZE = 8, 4, 8

BLOCK_MATRICES = FLOAT * HIDDEN * (2 * HIDDEN + 2 * KEY_HEADS * HEAD_SIZE + 3 * FEED_FORWARD)
MATRICES = LAYERS * BLOCK_MATRICES + FLOAT * 2 * VOCABULARY * HIDDEN
VECTORS = FLOAT * (2 * LAYERS + 1) * HIDDEN
ACTIVATION = FLOAT * BATCH * LENGTH * HIDDEN
"""Hidden states of one micro-batch, whole."""
KEYS_AND_VALUES = FLOAT * BATCH * LENGTH * 2 * KEY_HEADS * HEAD_SIZE


def measured(tmp_path: Path, cases: list[dict[str, Any]], processes: int = 2) -> list[Any]:
    """For every case, what each rank counted in a step."""
    model = write_model(tmp_path / "model", intermediate_size=FEED_FORWARD)
    assert read_model_config(model).num_hidden_layers == LAYERS
    data = write_data(tmp_path / "data")
    paths = []
    for number, options in enumerate(cases):
        config = small_config(
            model,
            data,
            tmp_path / str(number),
            max_steps=2,
            **{"gradient_accumulation_steps": MICRO_BATCHES, **options},
        )
        paths.append(str(write_config(tmp_path / f"{number}.json", config)))
    (tmp_path / "cases.json").write_text(json.dumps(paths))
    run_job(WORKER, tmp_path / "cases.json", tmp_path, processes=processes, log_dir=tmp_path / "l")
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(processes)]
    return [list(case) for case in zip(*ranks, strict=True)]


def test_data_parallel_sums_every_gradient_once(tmp_path: Path) -> None:
    (ranks,) = measured(tmp_path, [{}])
    assert ranks == 2 * [{"data all_reduce": MATRICES + VECTORS}]


def test_sharding(tmp_path: Path) -> None:
    """Stage 2 reduces matrices for every micro-batch; stage 3 gathers them twice for each, too."""
    stages = [{"sharding": f"stage{number}"} for number in (1, 2, 3)]
    one, two, three = measured(tmp_path, stages)
    reduced, gathered = "sharding reduce_scatter_tensor", "sharding all_gather_into_tensor"
    assert one == 2 * [{reduced: MATRICES + VECTORS, gathered: MATRICES + VECTORS}]
    by_micro_batch = MICRO_BATCHES * MATRICES + VECTORS
    assert two == 2 * [{reduced: by_micro_batch, gathered: MATRICES + VECTORS}]
    both_ways = 2 * MICRO_BATCHES * MATRICES + VECTORS
    assert three == 2 * [{reduced: by_micro_batch, gathered: both_ways}]


def test_tensor_parallel(tmp_path: Path) -> None:
    """Attention and feed-forward each sum once forward and once backward.

    The embedding sums forward, the head backward. Sequence parallelism gathers and scatters where
    there would be a sum, which is as much, and sums the gradients of norms once a step.
    """
    degree = {"tensor_parallel_degree": 2}
    plain, split = measured(tmp_path, [degree, {**degree, "sequence_parallel": True}])
    sums = MICRO_BATCHES * (4 * LAYERS + 2) * ACTIVATION
    assert plain == 2 * [{"tensor all_reduce": sums}]
    assert split == 2 * [
        {
            "tensor all_gather_into_tensor": sums,
            "tensor reduce_scatter_tensor": sums,
            "tensor all_reduce": VECTORS,
        }
    ]


def test_pipeline_sends_each_activation_and_each_gradient_once(tmp_path: Path) -> None:
    (ranks,) = measured(tmp_path, [{"pipeline_parallel_degree": 2}])
    assert ranks == 2 * [{"pipeline send": MICRO_BATCHES * ACTIVATION}]


def test_exchange_of_heads(tmp_path: Path) -> None:
    """Queries, keys and values, and what attention returns, forward and backward."""
    (ranks,) = measured(tmp_path, [{"sep_parallel_degree": 2}])
    each_way = 2 * ACTIVATION + KEYS_AND_VALUES
    exchanged = MICRO_BATCHES * LAYERS * 2 * each_way // 2
    gradients = MATRICES + VECTORS
    assert ranks == 2 * [
        {"sequence all_to_all_single": exchanged, "sequence all_reduce": gradients}
    ]


def test_ring_attention(tmp_path: Path) -> None:
    """Keys and values once round forward and once backward, where their gradients follow them."""
    (ranks,) = measured(tmp_path, [{"context_parallel_degree": 2}])
    sent = MICRO_BATCHES * LAYERS * 3 * KEYS_AND_VALUES // 2
    gradients = MATRICES + VECTORS
    assert ranks == 2 * [{"sequence all_to_all_single": sent, "sequence all_reduce": gradients}]


@pytest.mark.slow
def test_tensor_pipeline_and_sharding_together(tmp_path: Path) -> None:
    options = {"tensor_parallel_degree": 2, "pipeline_parallel_degree": 2, "sharding": "stage2"}
    (ranks,) = measured(tmp_path, [{**options, "gradient_accumulation_steps": 2}], processes=8)
    micro_batches, layers = 2, LAYERS // 2
    matrices = layers * BLOCK_MATRICES // 2 + FLOAT * VOCABULARY * HIDDEN // 2
    for rank in ranks:
        is_last = "pipeline send" in rank and rank["sharding all_gather_into_tensor"] > (
            matrices + FLOAT * 2 * layers * HIDDEN
        )
        vectors = FLOAT * (2 * layers + is_last) * HIDDEN
        assert rank == {
            "tensor all_reduce": micro_batches * (4 * layers + 1) * ACTIVATION,
            "pipeline send": micro_batches * ACTIVATION,
            "sharding reduce_scatter_tensor": micro_batches * matrices + vectors,
            "sharding all_gather_into_tensor": matrices + vectors,
        }
