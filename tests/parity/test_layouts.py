"""Every layout gives the loss and the gradient norm of one process, step by step.

One process is the control. All start from the seed checkpoint that it saves, and read the same
samples: where fewer ranks read data, they accumulate more micro-batches.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.launching import RUN_PRETRAIN, logged, run_job
from tests.small_runs import small_config, write_config, write_data, write_model

WORKER = Path(__file__).with_name("worker.py")
MICRO_BATCHES = 4
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Layout:
    name: str
    processes: int
    batch_ranks: int
    options: dict[str, Any]


def layout(name: str, *, data: int = 1, sharding: int = 1, tensor: int = 1, pipeline: int = 1):
    options: dict[str, Any] = {
        "tensor_parallel_degree": tensor,
        "pipeline_parallel_degree": pipeline,
    }
    if sharding > 1:
        options |= {"sharding": "stage1", "sharding_parallel_degree": sharding}
    batch_ranks = data * sharding
    return Layout(name, batch_ranks * tensor * pipeline, batch_ranks, options)


LAYOUTS = [
    layout("dp2", data=2),
    layout("sd2", sharding=2),
    layout("tp2", tensor=2),
    layout("pp2", pipeline=2),
    layout("tp2pp2", tensor=2, pipeline=2),
    layout("dp2tp2", data=2, tensor=2),
    layout("sd2tp2pp2", sharding=2, tensor=2, pipeline=2),
    layout("tp4pp2", tensor=4, pipeline=2),
]

# Three layers: the stages of a pipeline are unequal.
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "grouped-query": ({}, {}),
    "tied": ({"tie_word_embeddings": True}, {"fuse_attention_qkv": True}),
    "fused": ({}, {"fuse_attention_qkv": True, "fuse_attention_ffn": True, "recompute": True}),
}
"""Name: changes of the model, changes of the run."""


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint per case, written by one process before its first step."""
    folder = tmp_path_factory.mktemp("parity")
    write_data(folder / "data")
    found = {}
    for name, (model_changes, _) in CASES.items():
        model = write_model(folder / f"model-{name}", num_hidden_layers=3, **model_changes)
        config = small_config(
            model,
            folder / "data",
            folder / f"seed-{name}",
            max_steps=1,
            learning_rate=0.0,
            min_learning_rate=0.0,
            weight_decay=0.0,
        )
        path = write_config(folder / f"seed-{name}.json", config)
        run_job(RUN_PRETRAIN, path, log_dir=folder / f"log-seed-{name}")
        found[name] = folder / f"seed-{name}"
    return found


def train_cases(seeds: dict[str, Path], chosen: Layout) -> dict[str, list[dict[str, Any]]]:
    """Train every case in one launch; the logged steps of each."""
    folder = next(iter(seeds.values())).parent
    paths = []
    for name, (_, run_changes) in CASES.items():
        config = small_config(
            seeds[name],
            folder / "data",
            folder / f"{chosen.name}-{name}",
            continue_training=True,
            gradient_accumulation_steps=MICRO_BATCHES // chosen.batch_ranks,
            per_device_eval_batch_size=2 * MICRO_BATCHES // chosen.batch_ranks,
            do_eval=True,
            eval_steps=10,
            eval_iters=1,
            **chosen.options,
            **run_changes,
        )
        paths.append(str(write_config(folder / f"{chosen.name}-{name}.json", config)))
    cases = folder / f"{chosen.name}-cases.json"
    cases.write_text(json.dumps(paths))
    run_job(WORKER, cases, processes=chosen.processes, log_dir=folder / f"log-{chosen.name}")
    return {
        name: logged(folder / f"{chosen.name}-{name}")
        + logged(folder / f"{chosen.name}-{name}", "evaluation")
        for name in CASES
    }


@pytest.fixture(scope="module")
def control(seeds: dict[str, Path]) -> dict[str, list[dict[str, Any]]]:
    return train_cases(seeds, layout("one"))


@pytest.mark.parametrize("chosen", LAYOUTS, ids=lambda chosen: chosen.name)
def test_equals_one_process(
    chosen: Layout,
    seeds: dict[str, Path],
    control: dict[str, list[dict[str, Any]]],
) -> None:
    found = train_cases(seeds, chosen)
    for name in CASES:
        assert len(found[name]) == 22, name
        first, last = control[name][0]["loss"], control[name][19]["loss"]
        assert last < 0.95 * first, "nothing was learned"
        for expected, actual in zip(control[name], found[name], strict=True):
            for key in ("loss", "global_norm", "eval_loss"):
                if key in expected:
                    assert actual[key] == pytest.approx(expected[key], rel=TOLERANCE), (
                        f"{name}, step {expected['global_step']}, {key}"
                    )
