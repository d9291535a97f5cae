"""What has a key but does not work yet. Each rule goes when its feature comes."""

from __future__ import annotations

from collections.abc import Iterator

from llm_pretrain.config.cross_checks import Conflict
from llm_pretrain.config.training_arguments import TrainingArguments


def missing_features(training: TrainingArguments) -> Iterator[Conflict]:
    """Wishes that cannot be met, so that the run must not start."""
    if training.sequence_parallel:
        yield Conflict(
            ("sequence_parallel",), "sequence parallelism is not available yet; set it to false"
        )
    for key, value in (
        ("sep_parallel_degree", training.sep_parallel_degree),
        ("context_parallel_degree", training.context_parallel_degree),
        ("virtual_pp_degree", training.virtual_pp_degree),
    ):
        if value > 1:
            yield Conflict((key,), f"{value} is not available yet; set it to 1")


def substitutes(training: TrainingArguments) -> Iterator[str]:
    """Notices about wishes that are met in another way, with the same losses."""
    if training.sharding_stage > 1:
        yield (
            f"sharding: {training.sharding} is served by stage1's arithmetic for now; the losses "
            "are the same, but the memory is stage1's"
        )
    if "offload" in training.sharding:
        yield "sharding: offload is not available yet; the optimizer's state stays on the device"
    others = [name for name in training.report_to if name not in ("visualdl", "all", "none")]
    if others:
        yield (
            f"report_to: {', '.join(others)} not available yet; train_log.jsonl is always written"
        )
