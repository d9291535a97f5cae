"""What a run on a GPU chooses, and says of it."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from paddle import Tensor

from llm_pretrain.ops import OPERATORS, dispatch, paddle_attention
from llm_pretrain.ops.cuda import library
from llm_pretrain.ops.operator import CUDA, PADDLE
from llm_pretrain.training import agreement
from llm_pretrain.training.agreement import OperatorError
from tests.chosen_operators import said
from tests.ops.cuda import emulated

BUILD = "cd external_ops/csrc/paddle_cuda && python setup.py install builds them"
NOT_BUILT = f"the CUDA operators are not built ({BUILD})"
OURS = ["norm", "rotary", "activation", "attention", "linear_cross_entropy", "adamw"]
PADDLES = (
    "Operators by reference: linear, embedding, sum_of_squares (Paddle's own serves on a GPU)."
)


@pytest.fixture
def _not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    emulated.install(None, monkeypatch)


def is_cuda(operator: str) -> bool:
    return CUDA in OPERATORS[operator].serving


def _with_paddles_attention(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(paddle_attention, "device_has_kernel", lambda: True)


@pytest.mark.parametrize("keys", [{"bf16": True}, {"fp16": True}])
def test_every_kernel_serves_where_it_passes_its_self_test(
    cuda: ModuleType, tmp_path: Path, keys: dict[str, bool]
) -> None:
    ours = f"Operators by CUDA: {', '.join(OURS)} (llm_ops_cuda)."
    assert said(tmp_path, **keys) == [PADDLES, ours]
    names = {name.removeprefix("llm_ops_") for name in vars(cuda) if name.startswith("llm_ops_")}
    # These two are for a caller that has the logits of all ranks in hand.
    assert names - set(cuda.calls) == {"cross_entropy_loss", "cross_entropy_rescale"}


def test_in_float32_attention_is_the_reference(cuda: ModuleType, tmp_path: Path) -> None:
    _, ours, reference = said(tmp_path)
    assert "attention" not in ours
    assert reference == (
        "Operators by reference: attention (the kernels of attention take bfloat16 and float16)."
    )


@pytest.mark.usefixtures("_not_built")
def test_without_the_module_the_table_says_how_to_build_it(tmp_path: Path) -> None:
    assert said(tmp_path, bf16=True) == [
        PADDLES,
        f"Operators by reference: {', '.join(OURS)} ({NOT_BUILT}).",
    ]


@pytest.mark.usefixtures("_not_built")
def test_without_the_module_paddles_attention_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _with_paddles_attention(monkeypatch)
    lines = said(tmp_path, bf16=True, use_flash_attention=True, strict_ops=True)
    assert "Operators by Paddle's kernel: attention (the fastest here)." in lines


@pytest.mark.usefixtures("_not_built")
def test_a_switch_that_nothing_serves_warns_or_stops(tmp_path: Path) -> None:
    warning = said(tmp_path, bf16=True, use_fused_rms_norm=True, use_flash_attention=True)[-1]
    assert warning == (
        "warning: use_fused_rms_norm, use_flash_attention: no fast operator serves here: "
        f"{NOT_BUILT}."
    )
    with pytest.raises(OperatorError, match=r"use_fused_rope: .*setup\.py install"):
        said(tmp_path, use_fused_rope=True, strict_ops=True)


def test_a_switch_set_to_false_takes_the_reference(cuda: ModuleType, tmp_path: Path) -> None:
    _, _, plain = said(tmp_path, bf16=True, use_flash_attention=False, use_fused_rope=False)
    assert plain == "Operators by reference: rotary, attention (switched off in the config)."
    assert not is_cuda("rotary")


def _breaks(module: ModuleType, name: str, patch: pytest.MonkeyPatch) -> None:
    """Let the first result of an operator be a tenth too large."""
    right = getattr(module, f"llm_ops_{name}")

    def wrong(*arguments: Any) -> Any:
        found = right(*arguments)
        first = found
        while isinstance(first, list):
            first = first[0]
        first.scale_(1.1)
        return found

    patch.setattr(module, f"llm_ops_{name}", wrong)


@pytest.mark.parametrize(
    ("kernel", "operator"),
    [
        ("rms_norm", "norm"),
        ("layer_norm_backward", "norm"),
        ("rotary", "rotary"),
        ("activation_backward", "activation"),
        ("flash_attention_backward", "attention"),
        ("cross_entropy_backward", "linear_cross_entropy"),
        ("adamw", "adamw"),
    ],
)
def test_a_kernel_that_computes_something_else_does_not_serve(
    cuda: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: str, operator: str
) -> None:
    _breaks(cuda, kernel, monkeypatch)
    lines = said(tmp_path, bf16=True)
    problem = f"Operators by reference: {operator} (the self-test of CUDA failed: it is off by"
    assert any(line.startswith(problem) for line in lines)
    assert not is_cuda(operator)
    assert sum(is_cuda(other) for other in OURS) == len(OURS) - 1


def test_paddles_attention_takes_what_ours_does_not(
    cuda: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _with_paddles_attention(monkeypatch)
    said(tmp_path, bf16=True)
    assert OPERATORS["attention"].serving == (CUDA, PADDLE)
    _breaks(cuda, "flash_attention", monkeypatch)
    lines = said(tmp_path, bf16=True)
    assert not is_cuda("attention")
    assert any(
        line.startswith(
            "Operators by Paddle's kernel: attention (the fastest here; the self-test of"
        )
        for line in lines
    )


@pytest.mark.parametrize("there", ["CUDA", "Paddle's kernel"])
def test_what_another_rank_lacks_serves_on_none(
    cuda: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: str
) -> None:
    _with_paddles_attention(monkeypatch)
    attention = list(OPERATORS).index("attention")
    lacking = dispatch.IMPLEMENTATIONS.index("Paddle's kernel" if there == "CUDA" else "CUDA")

    def with_another(costs: Tensor, operation: str) -> Tensor:
        assert operation == "max"
        costs[attention, lacking] = 1 << 62
        return costs

    monkeypatch.setattr(agreement.collectives, "all_reduce_world", with_another)
    said(tmp_path, bf16=True)
    assert OPERATORS["attention"].serving == (there,)
    assert is_cuda("norm")


def test_a_module_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "broken_operators.py").write_text("raise ImportError('no libcudart.so.12')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(library, "_MODULE", "broken_operators")
    assert library.find() == (
        None, f"the CUDA operators can't be loaded: no libcudart.so.12 ({BUILD})"
    )  # fmt: skip
