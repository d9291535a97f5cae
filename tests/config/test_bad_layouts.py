"""Layouts that cannot be: refused before a process group is formed, with what would be possible.

Each case goes the way of a user's run. Its remedy is what the message offers, and is accepted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import pytest

from llm_pretrain.training import run as training_run
from tests.small_runs import small_config, write_config, write_model


@dataclass(frozen=True)
class Bad:
    """Values of a config, processes, and values of the model's config.json; and what is said.

    The model has 8 heads, 4 layers and a feed-forward width of 128, a sample 32 tokens. `remedy`
    changes values of the config or, under "processes", their number.
    """

    values: dict[str, Any]
    message: str
    remedy: dict[str, Any]
    processes: int = 1
    model: dict[str, Any] = field(default_factory=dict)


TP, PP, SD = "tensor_parallel_degree", "pipeline_parallel_degree", "sharding_parallel_degree"
SEP, CP, VP = "sep_parallel_degree", "context_parallel_degree", "virtual_pp_degree"
SP, STEPS, LENGTH = "sequence_parallel", "gradient_accumulation_steps", "max_seq_length"

RAMPS = [
    Bad(
        {"batch_ramp": [[0, 6], [100, 32]], "per_device_train_batch_size": 2},
        "batch_ramp: 6 samples are no multiple of 4, of 2 data ranks × per_device_train_batch_size "
        "2; possible near it: 4 or 8",
        {"batch_ramp": [[0, 8], [100, 32]]},
        2,
    ),
    Bad(
        {"batch_ramp": [[0, 4], [100, 8]], "per_device_train_batch_size": 2},
        "batch_ramp ends at 8 samples, but gradient_accumulation_steps 8 makes a batch of 16; set "
        "it to 4",
        {STEPS: 4},
    ),
]
STAGES = [{"until": 1000, "blend": "a"}, {"until": 2000, "blend": "b"}]
BY_TOKENS = [
    *RAMPS,
    Bad(
        {"length_ramp": [[0, 12], [100, 32]]},
        "length_ramp: 12 does not divide max_seq_length 32, so that samples can't be cut into "
        "sequences of it; it can be 1, 2, 4, 8, 16 or 32",
        {"length_ramp": [[0, 16], [100, 32]]},
    ),
    Bad(
        {"length_ramp": [[0, 8], [100, 16]]},
        "length_ramp ends at 16, which must be max_seq_length, 32",
        {"length_ramp": [[0, 8], [100, 32]]},
    ),
    Bad(
        {"data_stages": STAGES, "input_dir": None},
        "data_stages end at 2,000 tokens, but the run takes 10,240: leave out until of the last",
        {"data_stages": [STAGES[0], {"blend": "b"}]},
    ),
]

NUMBER_OF_PROCESSES = [
    Bad(
        {TP: 2},
        "tensor_parallel_degree 2 needs 2 processes or a multiple of it, but the world size is 1; "
        "start 2 processes (python -m paddle.distributed.launch --nproc_per_node 2 …), or set "
        "tensor_parallel_degree to 1",
        {"processes": 2},
    ),
    Bad(
        {TP: 2},
        "start 2 or 4 processes, or set tensor_parallel_degree to 1 or 3",
        {"processes": 4},
        3,
    ),
    Bad(
        {CP: 4},
        "start 4 or 8 processes, or set context_parallel_degree to 3 or 6",
        {CP: 1},
        6,
    ),
    Bad(
        {TP: 4, PP: 2},
        "tensor_parallel_degree 4 × pipeline_parallel_degree 2 needs 8 processes or a multiple of "
        "it, but the world size is 4; start 8 processes, or set tensor_parallel_degree to 2, or "
        "pipeline_parallel_degree to 1",
        {TP: 2},
        4,
    ),
    Bad({TP: 4, PP: 2}, "or set tensor_parallel_degree to 3 or 6", {"processes": 8}, 12),
    Bad(
        {TP: 2, PP: 2, SEP: 2},
        "start 8 processes, or choose degrees whose product is 6",
        {"processes": 8},
        6,
    ),
    Bad(
        {"sharding": "stage1", SD: 3},
        "sharding_parallel_degree 3 needs 3 processes or a multiple of it, but the world size is "
        "4; start 3 or 6 processes, or set sharding_parallel_degree to 2 or 4",
        {SD: 4},
        4,
    ),
    Bad(
        {"sharding": "stage3", SD: 2, PP: 2},
        "start 4 or 8 processes, or set pipeline_parallel_degree to 1 or 3, or "
        "sharding_parallel_degree to 1 or 3",
        {SD: 3},
        6,
    ),
]

MODEL = [
    Bad(
        {TP: 3},
        "tensor_parallel_degree 3 does not divide the model's 8 attention heads and feed-forward "
        "width of 128; it can be 1, 2, 4 or 8",
        {TP: 4, "processes": 4},
        3,
    ),
    Bad({TP: 16}, "the model's 8 attention heads; it can be 1, 2, 4 or 8", {TP: 8}, 16),
    Bad(
        {TP: 8},
        "tensor_parallel_degree 8 does not divide the model's feed-forward width of 132; it can be "
        "1, 2 or 4",
        {TP: 4},
        8,
        {"intermediate_size": 132},
    ),
    Bad(
        {TP: 7, PP: 2},
        "tensor_parallel_degree 7 does not divide",
        {TP: 1},
        14,
    ),
    Bad(
        {SEP: 16},
        "sep_parallel_degree 16 does not divide the model's 8 attention heads; it can be 1, 2, 4 "
        "or 8, and context_parallel_degree needs no heads",
        {SEP: 1, CP: 16},
        16,
    ),
    Bad(
        {SEP: 4, TP: 4},
        "the model's 8 attention heads, 2 on each tensor-parallel rank; it can be 1 or 2",
        {SEP: 2},
        16,
    ),
    Bad(
        {PP: 5},
        "pipeline_parallel_degree 5 needs 5 layers, but the model has 4; possible is a degree of "
        "at most 4",
        {PP: 4, "processes": 4},
        5,
    ),
    Bad(
        {PP: 2, VP: 3},
        "pipeline_parallel_degree 2 × virtual_pp_degree 3 needs 6 layers, but the model has 4; "
        "possible is 2 × 2",
        {VP: 2},
        2,
    ),
    Bad(
        {PP: 4, VP: 2},
        "needs 8 layers, but the model has 6; possible is 4 × 1 or 3 × 2",
        {VP: 1},
        4,
        {"num_hidden_layers": 6},
    ),
    Bad({PP: 8, VP: 2}, "needs 16 layers, but the model has 4; possible is 2 × 2", {PP: 2}, 8),
    Bad(
        {PP: 5, VP: 4, STEPS: 5},
        "needs 20 layers, but the model has 3; possible is 3 × 1",
        {PP: 3, VP: 1, "processes": 3},
        5,
        {"num_hidden_layers": 3},
    ),
    Bad(
        {"no_recompute_layers": [1, 4, 9], "recompute": True},
        "no_recompute_layers names 4, 9, but the model has layers 0 to 3",
        {"no_recompute_layers": [1, 3]},
    ),
]

SEQUENCE = [
    Bad(
        {SEP: 4, "length_ramp": [[0, 2], [100, 32]]},
        "length_ramp: 2 cannot be cut into the 4 equal parts of sep_parallel_degree 4; possible "
        "near it: 4",
        {"length_ramp": [[0, 4], [100, 32]]},
        4,
    ),
    Bad(
        {SEP: 4, LENGTH: 30},
        "max_seq_length 30 cannot be cut into the 4 equal parts of sep_parallel_degree 4; possible "
        "near it: 28 or 32",
        {LENGTH: 28},
        4,
    ),
    Bad(
        {CP: 2, LENGTH: 30},
        "the 4 equal parts of context_parallel_degree 2; possible near it: 28 or 32",
        {LENGTH: 32},
        2,
    ),
    Bad(
        {SP: True, TP: 2, LENGTH: 33},
        "the 2 equal parts of sequence_parallel over tensor_parallel_degree 2; possible near it: "
        "32 or 34",
        {LENGTH: 34},
        2,
    ),
    Bad(
        {SP: True, TP: 4, SEP: 2, LENGTH: 36},
        "the 8 equal parts of sep_parallel_degree 2 × sequence_parallel over "
        "tensor_parallel_degree 4; possible near it: 32 or 40",
        {SP: False},
        8,
    ),
    Bad({SP: True, TP: 2, CP: 2, LENGTH: 34}, "possible near it: 32 or 36", {LENGTH: 36}, 4),
    Bad(
        {CP: 32},
        "the 64 equal parts of context_parallel_degree 32; possible near it: 64",
        {LENGTH: 64},
        32,
    ),
]

BATCH = [
    Bad(
        {PP: 2, VP: 2, STEPS: 3},
        "gradient_accumulation_steps 3 is no multiple of pipeline_parallel_degree 2, which "
        "virtual_pp_degree 2 needs; possible near it: 2 or 4",
        {STEPS: 4},
        2,
    ),
    Bad(
        {PP: 4, VP: 2, STEPS: 1},
        "which virtual_pp_degree 2 needs; possible near it: 4",
        {STEPS: 4},
        4,
        {"num_hidden_layers": 8},
    ),
    Bad({STEPS: 0}, "0 does not fit: should be greater than 0", {STEPS: 1}),
    Bad(
        {"per_device_train_batch_size": 0},
        "per_device_train_batch_size: 0 does not fit: should be greater than 0",
        {"per_device_train_batch_size": 1},
    ),
    Bad(
        {"per_device_eval_batch_size": 0, "do_eval": True},
        "per_device_eval_batch_size: 0 does not fit: should be greater than 0",
        {"per_device_eval_batch_size": 1},
    ),
]

EACH_OTHER = [
    Bad(
        {SEP: 2, CP: 2},
        "sep_parallel_degree: both split the sequence; set one of them to 1",
        {CP: 1},
        4,
    ),
    Bad(
        {SP: True},
        "sequence parallelism works within a tensor-parallel group; set tensor_parallel_degree to "
        "2 or more, or sequence_parallel to false",
        {TP: 2},
        2,
    ),
]

VALUES = [
    Bad({TP: 0}, "0 is not a degree: a whole number from 1, or -1 for the default", {TP: 1}),
    Bad({PP: -2}, "pipeline_parallel_degree: -2 is not a degree: a whole number", {PP: -1}),
    Bad({SEP: 1.5}, "sep_parallel_degree: 1.5 is not a whole number", {SEP: 1.0}),
    Bad({CP: "two"}, "context_parallel_degree: 'two' is not a whole number", {CP: 2}, 2),
    Bad({SD: 0, "sharding": "stage1"}, "sharding_parallel_degree: 0 is not a degree", {SD: -1}, 2),
    Bad({VP: 0}, "virtual_pp_degree: 0 does not fit: should be greater than 0", {VP: 1}),
    Bad(
        {"sharding": "stage4"},
        "'stage4' is no sharding stage; it can be stage1, stage2, stage3 or ''",
        {"sharding": "stage3"},
    ),
    Bad({"sharding": 2}, "2 is no sharding stage; it can be stage1", {"sharding": "stage2"}),
    Bad(
        {"sharding": "stage1 stage2"},
        "'stage1 stage2' is no sharding stage; it can be stage1",
        {"sharding": "stage1"},
    ),
    Bad(
        {"sharding": "offload"},
        "'offload' needs a stage beside it, for instance 'stage2 offload'",
        {"sharding": "stage2 offload"},
    ),
    Bad(
        {"hybrid_parallel_topo_order": "tp_first"},
        "'tp_first' is not available; it can be 'pp_first' or 'sharding_first'",
        {"hybrid_parallel_topo_order": "sharding_first"},
    ),
    Bad({SP: "maybe"}, "'maybe' is not a switch: write true or false", {SP: True, TP: 2}, 2),
    Bad(
        {"sharding_comm_buffer_size_MB": 0},
        "0 is not a size: a whole number from 1, or -1 for 256",
        {"sharding_comm_buffer_size_MB": 1},
    ),
    Bad(
        {"sharding_parallel_config": "enable_stage2_overlaps"},
        "unknown option 'enable_stage2_overlaps'; did you mean enable_stage2_overlap?",
        {"sharding_parallel_config": "enable_stage2_overlap"},
    ),
    Bad(
        {"tensor_parallel_config": "enable_stage1_overlap"},
        "unknown option 'enable_stage1_overlap'; it belongs in sharding_parallel_config",
        {"tensor_parallel_config": "", "sharding_parallel_config": "enable_stage1_overlap"},
    ),
    Bad(
        {"no_recompute_layers": [-1], "recompute": True},
        "-1 is not a layer: layers are numbered from 0",
        {"no_recompute_layers": [0]},
    ),
    Bad(
        {"recompute_granularity": "half", "recompute": True},
        "'half' is not available; it can be 'full', 'full_attn', 'core_attn' or ''",
        {"recompute_granularity": "full_attn"},
    ),
    Bad(
        {"pp_recompute_interval": -1, "recompute": True},
        "pp_recompute_interval: -1 does not fit: should be greater than or equal to 0",
        {"pp_recompute_interval": 0},
    ),
]

CASES = [
    *NUMBER_OF_PROCESSES,
    *MODEL,
    *SEQUENCE,
    *BATCH,
    *BY_TOKENS,
    *EACH_OTHER,
    *VALUES,
]


class GroupsFormedError(Exception):
    """The run has come as far as forming process groups."""


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Starts a run as a process of a launched job would, and returns its exit status."""

    def form_groups(*_: object, **__: object) -> NoReturn:
        raise GroupsFormedError

    monkeypatch.setattr(training_run, "initialize", form_groups)

    def with_values(values: dict[str, Any], processes: int, model: dict[str, Any]) -> int:
        monkeypatch.setenv("PADDLE_TRAINERS_NUM", str(processes))
        directory = write_model(tmp_path / "model", **model)
        config = small_config(directory, tmp_path / "data", tmp_path / "out", **values)
        return training_run.run([str(write_config(tmp_path / "run.json", config))])

    return with_values


@pytest.mark.parametrize("bad", CASES, ids=lambda bad: str(bad.values))
def test_a_bad_layout_is_refused_with_what_would_be_possible(
    start: Callable[..., int], capsys: pytest.CaptureFixture[str], bad: Bad
) -> None:
    assert start(bad.values, bad.processes, bad.model) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert bad.message in line


@pytest.mark.parametrize("bad", CASES, ids=lambda bad: str(bad.values))
def test_what_the_message_offers_is_accepted(start: Callable[..., int], bad: Bad) -> None:
    values = bad.values | bad.remedy
    processes = values.pop("processes", bad.processes)
    with pytest.raises(GroupsFormedError):
        start(values, processes, bad.model)


@pytest.mark.parametrize(
    ("values", "processes"),
    [
        ({TP: 8}, 8),  # 4 key–value heads and 130 tokens
        ({TP: 2, SP: True, PP: 2, "sharding": "stage3", "recompute": True}, 8),
        ({PP: 2, VP: 2, "sharding": "stage2", "do_eval": True}, 8),
        ({PP: 3}, 3),  # of 4 layers
        ({TP: 2, SP: True, SEP: 4}, 8),
        ({TP: 2, SP: True, CP: 4, "sharding": "stage1"}, 16),
    ],
)
def test_layouts_that_are_possible(
    start: Callable[..., int], values: dict[str, Any], processes: int
) -> None:
    with pytest.raises(GroupsFormedError):
        start(values, processes, {"vocab_size": 130})
