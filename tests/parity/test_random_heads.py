"""Whatever the heads, the degrees and the sizes: equal to one process, or refused with the reason.

Each draw is a model of a family whose query heads share keys, and a layout of six processes. One
launch trains all that are accepted, and another the same models on one process.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from llm_pretrain.config import check_layout, load_run_config, resolve_degrees
from llm_pretrain.training.preflight import model_config_of
from tests.launching import logged, run_job
from tests.small_runs import small_config, write_config, write_data

WORKER = Path(__file__).with_name("worker.py")
PROCESSES, LAYERS, STEPS = 6, 2, 2
AXES = ("sep", "context", "pipeline", "sharding", "data")
"""What a layout splits besides tensors."""


@dataclass(frozen=True)
class Draw:
    """A model's config.json, and options of its run."""

    model: dict[str, Any]
    options: dict[str, Any]
    layout: dict[str, Any]

    @property
    def family(self) -> str:
        return self.model["model_type"]

    @property
    def axis(self) -> str:
        return next((axis for axis in AXES if f"{axis}_parallel_degree" in self.layout), "data")

    @property
    def degrees(self) -> dict[str, int]:
        names = ("tensor_parallel", "sep_parallel", "context_parallel", "pipeline_parallel")
        return {name.partition("_")[0]: self.layout.get(f"{name}_degree", 1) for name in names}

    @property
    def heads(self) -> tuple[int, int]:
        keys = self.model.get("multi_query_group_num") or self.model["num_key_value_heads"]
        return self.model["num_attention_heads"], keys

    @property
    def keys_are_uneven(self) -> bool:
        """Whether some rank has query heads that use its key heads in unequal numbers."""
        (heads, keys), parts = self.heads, self.degrees["tensor"] * self.degrees["sep"]
        shares = np.array_split(np.arange(heads) // (heads // keys), parts)
        return any(len(set(np.unique(share, return_counts=True)[1])) > 1 for share in shares)

    def reasons(self) -> list[str]:
        """The keys that a refusal must name, by arithmetic."""
        degrees = self.degrees
        tensor, sep, (heads, _) = degrees["tensor"], degrees["sep"], self.heads
        width = self.model.get("ffn_hidden_size") or self.model["intermediate_size"]
        parts = sep * degrees["context"] * (tensor if "sequence_parallel" in self.layout else 1)
        pieces = 2 * degrees["context"] if degrees["context"] > 1 else 1
        found = {
            "tensor_parallel_degree": heads % tensor or width % tensor,
            "sep_parallel_degree": heads % tensor == 0 and heads // tensor % sep,
            "pipeline_parallel_degree": degrees["pipeline"] > LAYERS,
            "max_seq_length": self.options["max_seq_length"] % math.lcm(parts, pieces),
        }
        return [key for key, is_wrong in found.items() if is_wrong]


def draw(random: Random) -> Draw:
    family = random.choice(list(FAMILIES.values()))
    options = {
        "max_seq_length": random.choice([12, 24, 36, 36, 35]),
        "use_flash_attention": random.choice([None, False]),
        "fuse_attention_qkv": random.random() < 0.5,
    }
    return Draw(family(random), options, layout(random))


def layout(random: Random) -> dict[str, Any]:
    """Degrees that six processes allow, and options that go with them."""
    tensor = random.choice([1, 2, 2, 3, 3, 6])
    left = PROCESSES // tensor
    axis = random.choice(AXES) if left > 1 else "data"
    found: dict[str, Any] = {"tensor_parallel_degree": tensor}
    if axis != "data":
        found[f"{axis}_parallel_degree"] = left
    if axis == "sharding":
        found["sharding"] = random.choice(["stage1", "stage3"])
    elif axis != "data":
        left = 1
    if tensor > 1 and random.random() < 0.5:
        found["sequence_parallel"] = True
    if random.random() < 0.5:
        granularity = random.choice(["full", "full_attn", "core_attn"])
        found |= {"recompute": True, "recompute_granularity": granularity}
    return {**found, "gradient_accumulation_steps": PROCESSES // left}


def sizes(random: Random) -> dict[str, Any]:
    """What the families share but for names."""
    keys, group = random.randint(1, 7), random.randint(1, 6)
    return {
        "num_attention_heads": keys * group,
        "num_key_value_heads": keys,
        "head_dim": 4,
        "hidden_size": keys * group * 4,
        "intermediate_size": random.choice([24, 36, 36, 42, 25]),
        "vocab_size": random.randint(128, 140),
        "num_hidden_layers": LAYERS,
        "max_position_embeddings": 64,
        "initializer_range": 0.1,
    }


def llama(random: Random) -> dict[str, Any]:
    bias, dropout = random.random() < 0.5, random.choice([0.0, 0.2])
    published = {"model_type": "llama", "attention_bias": bias, "attention_dropout": dropout}
    return {**sizes(random), **published, "rms_norm_eps": 1e-6}


def qwen2(random: Random) -> dict[str, Any]:
    return {**sizes(random), "model_type": "qwen2", "rms_norm_eps": 1e-6}


def qwen3(random: Random) -> dict[str, Any]:
    """Whose heads have norms, and a size of their own."""
    return {**sizes(random), "model_type": "qwen3", "rms_norm_eps": 1e-6, "head_dim": 6}


def chatglm2(random: Random) -> dict[str, Any]:
    size = sizes(random)
    names = {
        "num_key_value_heads": "multi_query_group_num",
        "intermediate_size": "ffn_hidden_size",
        "vocab_size": "padded_vocab_size",
        "num_hidden_layers": "num_layers",
        "max_position_embeddings": "seq_length",
        "head_dim": "kv_channels",
    }
    published = {names.get(key, key): value for key, value in size.items()}
    return {
        **published,
        "model_type": "chatglm_v2",
        "layernorm_epsilon": 1e-5,
        "add_qkv_bias": True,
    }


FAMILIES = {"llama": llama, "qwen2": qwen2, "qwen3": qwen3, "chatglm_v2": chatglm2}


def paths(draws: list[Draw], folder: Path) -> Iterator[Path]:
    """Of the configuration of every draw, in `folder`."""
    for number, drawn in enumerate(draws):
        model = folder / f"model-{number}"
        model.mkdir(parents=True)
        (model / "config.json").write_text(json.dumps(drawn.model))
        options = {"max_steps": STEPS, "per_device_train_batch_size": 1, **drawn.options}
        config = small_config(model, folder / "data", folder / f"run-{number}", **options)
        yield write_config(folder / f"run-{number}.json", {**config, **drawn.layout})


def train(draws: list[Draw], folder: Path, processes: int) -> list[list[dict[str, Any]]]:
    write_data(folder / "data", documents=60)
    configs = list(paths(draws, folder))
    cases = folder / "cases.json"
    cases.write_text(json.dumps([str(path) for path in configs]))
    run_job(WORKER, cases, processes=processes, log_dir=folder / "log", timeout=1800)
    return [logged(path.with_suffix("")) for path in configs]


def accepted(draws: list[Draw], folder: Path) -> list[Draw]:
    """Those that `check` finds in order; it must refuse the others for what is wrong with them."""
    found = []
    for drawn, path in zip(draws, paths(draws, folder), strict=True):
        run = load_run_config(path)
        degrees = resolve_degrees(run.training, PROCESSES)
        problems = check_layout(run, model_config_of(run), degrees)
        assert [problem.split()[0] for problem in problems] == drawn.reasons(), problems
        found += [] if problems else [drawn]
    return found


def assert_equals_one_process(draws: list[Draw], folder: Path) -> None:
    alone = {"gradient_accumulation_steps": PROCESSES}
    expected = train([Draw(x.model, x.options, alone) for x in draws], folder / "one", 1)
    actual = train(draws, folder / "six", PROCESSES)
    for drawn, one, six in zip(draws, expected, actual, strict=True):
        assert len(one) == len(six) == STEPS
        for (mine, theirs), metric in itertools.product(
            zip(six, one, strict=True), ("loss", "global_norm")
        ):
            assert mine[metric] == pytest.approx(theirs[metric], rel=1e-5), (drawn, metric)


def test_equals_one_process_or_is_refused(tmp_path: Path) -> None:
    draws = accepted([draw(Random(seed)) for seed in range(200)], tmp_path / "checked")
    uneven = [drawn for drawn in draws if drawn.keys_are_uneven]
    firsts = {key: drawn for drawn in reversed(uneven) for key in (drawn.family, drawn.axis)}
    assert {*FAMILIES, *AXES} == firsts.keys()
    assert_equals_one_process([drawn for drawn in uneven if drawn in firsts.values()], tmp_path)


@pytest.mark.slow
def test_equals_one_process_in_full(tmp_path: Path) -> None:
    """Many draws, among them those whose ranks use their key heads evenly."""
    draws = accepted([draw(Random(seed)) for seed in range(200, 300)], tmp_path / "checked")
    assert_equals_one_process(draws, tmp_path)
