"""Configurations whose memory is predicted and measured."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from llm_pretrain.models.families import CAPABILITIES
from tests.parity import grid
from tests.parity.grid import BF16, Layout, stage

ALONE = Layout("one process", layers=2)
WIDER = {"hidden_size": 96, "intermediate_size": 320}
FLASH = {"use_flash_attention": True}


@dataclass(frozen=True)
class Case:
    """A model in a layout; `by_references` leaves out the operators in C++."""

    model: str
    layout: Layout = ALONE
    options: dict[str, Any] = field(default_factory=dict)
    by_references: bool = False
    is_quick: bool = False
    """Whether `make test` has it."""

    @property
    def keys(self) -> dict[str, Any]:
        """Of its configuration."""
        return {
            "model_name_or_path": CAPABILITIES[self.model],
            "max_steps": 2,
            "num_hidden_layers": self.layout.layers,
            **self.layout.options,
            **self.options,
        }

    @property
    def text(self) -> str:
        """The options, in a table's words."""
        said = [f"{key} {value}" for key, value in self.options.items()]
        return ", ".join([*said, *(["references"] if self.by_references else [])]) or "–"


def unlike(cases: Iterable[Case]) -> tuple[Case, ...]:
    """Of cases that are alike the first."""
    found: dict[tuple[str, ...], Case] = {}
    for case in cases:
        key = (case.model, case.layout.name, str(case.layout.layers), case.text)
        found.setdefault(key, case)
    return tuple(found.values())


LLAMA, GROUPED, GPT = "LLaMA-65B", "LLaMA2-70B", "GPT3"
_KINDS = ("full", "full_attn", "core_attn")


def _recomputes(kind: str) -> dict[str, Any]:
    return {"recompute": True, "recompute_granularity": kind}


def _depth(layout: Layout, layers: int) -> Layout:
    return Layout(**{**layout.__dict__, "layers": layers})


FAMILIES = tuple(
    Case(model, options=options, by_references=by_references)
    for model in CAPABILITIES
    for options in ({}, FLASH)
    for by_references in (False, True)
    if by_references or not options
)
SIZES = tuple(
    Case(LLAMA, _depth(ALONE, layers), {**FLASH, **options})
    for layers in (1, 3)
    for options in ({}, WIDER)
)
RECOMPUTE = tuple(
    Case(model, ALONE, {**FLASH, **_recomputes(kind)}, by_references)
    for model in (LLAMA, GPT)
    for kind in _KINDS
    for by_references in (False, True)
)
PRECISION = tuple(
    Case(model, ALONE, {**BF16, **FLASH, **options}, by_references)
    for model in (LLAMA, GPT)
    for options in ({}, _recomputes("full"))
    for by_references in (False, True)
)
LAYOUTS = tuple(
    Case(model, cell.layout, cell.options)
    for cell in grid.CELLS
    if cell.layout.processes <= 4
    for model in (GROUPED, GPT)
    if model == GROUPED or cell.layout.processes == 2
)
QUICK = tuple(
    Case(model, layout, options, by_references, is_quick=True)
    for model, layout, options, by_references in (
        (LLAMA, ALONE, {}, False),
        (LLAMA, ALONE, FLASH, True),
        (GPT, ALONE, {**BF16, **_recomputes("full")}, False),
        ("ChatGLM-6B", ALONE, _recomputes("core_attn"), False),
        (LLAMA, grid.TP2, {"sequence_parallel": True, **FLASH}, False),
        (GROUPED, grid.SD2, stage(3), False),
        (LLAMA, grid.PP2VP2, {}, False),
    )
)
CASES = unlike((*QUICK, *FAMILIES, *SIZES, *RECOMPUTE, *PRECISION, *LAYOUTS))
