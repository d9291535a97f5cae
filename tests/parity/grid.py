"""What is run in which layout: the cells of docs/capabilities.md."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from llm_pretrain.models.families import CAPABILITIES

SAMPLES = 8
"""Of a step, over all ranks together."""


@dataclass(frozen=True)
class Layout:
    """Degrees of parallelism; the name says them, as in dp2sd2tp2.

    The number of layers is one that makes the stages of a pipeline unequal.
    """

    name: str
    data: int = 1
    sharding: int = 1
    tensor: int = 1
    pipeline: int = 1
    sep: int = 1
    context: int = 1
    virtual: int = 1
    layers: int = 3

    @property
    def batch_ranks(self) -> int:
        return self.data * self.sharding

    @property
    def micro_batches(self) -> int:
        """Of a step, over all ranks: as many as fill a pipeline, or let gradients add up.

        The loss depends on it where samples learn from unequal numbers of tokens.
        """
        return 2 if self.pipeline == self.batch_ranks == 1 else 4

    @property
    def processes(self) -> int:
        return self.batch_ranks * self.tensor * self.pipeline * self.sep * self.context

    @property
    def options(self) -> dict[str, Any]:
        options: dict[str, Any] = {
            "num_hidden_layers": self.layers,
            "tensor_parallel_degree": self.tensor,
            "pipeline_parallel_degree": self.pipeline,
            "virtual_pp_degree": self.virtual,
            "sep_parallel_degree": self.sep,
            "context_parallel_degree": self.context,
            "gradient_accumulation_steps": self.micro_batches // self.batch_ranks,
            "per_device_train_batch_size": SAMPLES // self.micro_batches,
            "per_device_eval_batch_size": SAMPLES // self.batch_ranks,
        }
        if self.sharding > 1:
            options["sharding_parallel_degree"] = self.sharding
        return options


@dataclass(frozen=True)
class Cell:
    """A column of the table, run in one layout with these options."""

    column: str
    layout: Layout
    options: dict[str, Any] = field(default_factory=dict)
    is_quick: bool = False
    """Whether `make test` runs it, for the models of `QUICK_MODELS`; `make test-all` runs all."""

    @property
    def is_exact(self) -> bool:
        """Whether it computes in float32."""
        return not self.options.get("bf16", False)


def stage(number: int, **options: Any) -> dict[str, Any]:
    return {"sharding": f"stage{number}", **options}


DP2 = Layout("dp2", data=2)
SD2 = Layout("sd2", sharding=2)
DP2SD2 = Layout("dp2sd2", data=2, sharding=2)
TP2 = Layout("tp2", tensor=2)
TP4 = Layout("tp4", tensor=4)
PP2 = Layout("pp2", pipeline=2)
PP2VP2 = Layout("pp2vp2", pipeline=2, virtual=2, layers=5)
PP4 = Layout("pp4", pipeline=4, layers=5)
SEP2 = Layout("sep2", sep=2)
SEP4 = Layout("sep4", sep=4)
CP2 = Layout("cp2", context=2)
TP2SEP2 = Layout("tp2sep2", tensor=2, sep=2)
TP2CP2 = Layout("tp2cp2", tensor=2, context=2)
TP2PP2 = Layout("tp2pp2", tensor=2, pipeline=2)
PP2SD2 = Layout("pp2sd2", pipeline=2, sharding=2)
SD2TP2PP2 = Layout("sd2tp2pp2", sharding=2, tensor=2, pipeline=2)
SD2PP2VP2 = Layout("sd2pp2vp2", sharding=2, pipeline=2, virtual=2, layers=5)

TABLE = (
    Cell("DP", DP2, is_quick=True),
    Cell("TP", TP2),
    Cell("PP", PP2),
    Cell("sequence parallel", TP2, {"sequence_parallel": True}, is_quick=True),
    Cell("flash attention", DP2, {"use_flash_attention": True}),
    Cell("selective recompute", DP2, {"recompute": True, "recompute_granularity": "core_attn"}),
    Cell("selective recompute", DP2, {"recompute": True, "recompute_granularity": "full_attn"}),
    Cell("stage1 + recompute", SD2, stage(1, recompute=True)),
    Cell("stage1 + DP", DP2SD2, stage(1)),
    Cell("stage2 + recompute", SD2, stage(2, recompute=True)),
    Cell("stage2 + DP", DP2SD2, stage(2)),
    Cell("stage3 + recompute", SD2, stage(3, recompute=True), is_quick=True),
    Cell("stage3 + DP", DP2SD2, stage(3)),
)
"""The columns that users choose by."""

BF16 = {"bf16": True, "fp16_opt_level": "O2", "amp_master_grad": True}

BEYOND = (
    Cell("interleaved PP", PP2VP2, is_quick=True),
    Cell("sep", SEP2, is_quick=True),
    Cell("context", CP2, is_quick=True),
    Cell("TP beyond key heads and vocabulary", TP4, {"sequence_parallel": True}),
    Cell("sep beyond key heads", SEP4, {"use_flash_attention": True}),
    Cell(
        "TP + selective recompute",
        TP2,
        {"recompute": True, "recompute_granularity": "core_attn", "sequence_parallel": True},
    ),
    Cell("PP of unequal stages", PP4),
    Cell("sep + TP", TP2SEP2, {"sequence_parallel": True}),
    Cell("context + TP", TP2CP2, {"sequence_parallel": True}),
    Cell("TP + PP", TP2PP2, {"sequence_parallel": True, "recompute": True}),
    Cell("stage1 + TP + PP", SD2TP2PP2, stage(1)),
    Cell("stage2 + TP + PP", SD2TP2PP2, stage(2)),
    Cell("stage3 + TP + PP", SD2TP2PP2, stage(3, recompute=True, sequence_parallel=True)),
    Cell("stage3 + interleaved PP", SD2PP2VP2, stage(3)),
    Cell(
        "overlapped communication",
        PP2SD2,
        stage(
            2,
            sharding_parallel_config="enable_stage2_overlap enable_stage1_allgather_overlap",
            pipeline_parallel_config="enable_sharding_comm_overlap enable_release_grads",
        ),
    ),
    Cell("bf16 O2", TP2, {**BF16, "sequence_parallel": True}),
    Cell("bf16 O2", PP2SD2, {**BF16, **stage(2)}),
    Cell("bf16 O2", SD2, {**BF16, **stage(3)}),
    Cell("bf16 O2", CP2, BF16),
)
"""Combinations beyond the table."""

CELLS = TABLE + BEYOND


QUICK_MODELS = (
    "LLaMA2-70B",  # grouped key heads
    "BaiChuan-13B",  # linear biases
    "Baichuan2-7B",  # a normalised head
    "Bloom-176B",  # layer norm, one of the embedding, weights that are tied
    "GPT3",  # learned positions
    "ChatGLM-6B",  # a prefix that sees itself, and residuals of the norm
    "ChatGLM2",  # rotary embedding of half a head
    "Qwen3",  # norms of heads
)
"""One for each kind of layer."""

Run = tuple[str, Cell]
"""A model in a cell."""


def launches(*, quick: bool) -> dict[str, list[Run]]:
    """The runs of each layout, which are one launch: the quick ones, or all others."""
    found: dict[str, list[Run]] = {}
    for cell in CELLS:
        for model in CAPABILITIES:
            if quick == (cell.is_quick and model in QUICK_MODELS):
                found.setdefault(cell.layout.name, []).append((model, cell))
    return found


def device_launches(*, quick: bool) -> dict[int, list[Run]]:
    """The runs on the emulated device by processes, which are one launch: all float32 cells.

    The quick ones are the `QUICK_MODELS`, each in every other quick cell.
    """
    found: dict[int, list[Run]] = {}
    quick_cells = [cell for cell in CELLS if cell.is_quick]
    for cell in filter(lambda cell: cell.is_exact, CELLS):
        few = QUICK_MODELS[quick_cells.index(cell) % 2 :: 2] if cell.is_quick else ()
        for model in CAPABILITIES:
            if quick == (model in few):
                found.setdefault(cell.layout.processes, []).append((model, cell))
    return found
