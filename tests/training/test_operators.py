"""What serves the operators of a run, and that training is the same whatever serves."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import paddle
import pytest

from llm_pretrain.config.training_arguments import TrainingArguments
from llm_pretrain.models.decoder import Decoder
from llm_pretrain.models.families import CAPABILITIES, FAMILIES, SEEDS
from llm_pretrain.ops import OPERATORS, dispatch
from llm_pretrain.ops.native import elementwise, library
from llm_pretrain.ops.native import norm as native_norm
from llm_pretrain.ops.operator import set_compute_dtype
from llm_pretrain.parallel.comm import topology
from llm_pretrain.parallel.sharding.optimizer import LossScale, ShardedAdamW
from llm_pretrain.parallel.sharding.pieces import initialize
from llm_pretrain.training.agreement import OperatorError
from tests.chosen_operators import said
from tests.launching import RUN_PRETRAIN, logged, run_job
from tests.small_runs import small_config, write_config, write_data, write_model

STEPS = 8
NOT_BUILT = "the C++ operators are not built (make ops, or pip install ./external_ops, builds it)"


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    dispatch.use_references()
    set_compute_dtype("float32")


@pytest.fixture
def _built() -> None:
    found, reason = library.find()
    if found is None:
        pytest.skip(reason)


@pytest.fixture
def _not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "find", lambda: (None, NOT_BUILT))


@pytest.mark.usefixtures("_built")
def test_every_operator_of_the_library_passes_its_self_test(tmp_path: Path) -> None:
    for low in (False, True):
        (line,) = said(tmp_path, bf16=low)
        assert line.startswith(f"Operators by C++: {', '.join(OPERATORS)} (")


@pytest.mark.usefixtures("_built")
def test_a_switch_set_to_false_takes_the_reference(tmp_path: Path) -> None:
    served, plain = said(tmp_path, use_flash_attention=False, use_fused_rope=False)
    assert plain == "Operators by reference: rotary, attention (switched off in the config)."
    assert "norm" in served


@pytest.mark.usefixtures("_built")
def test_an_operator_that_computes_something_else_does_not_serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_norm, "norm", lambda x, *_: x + 1.0)
    table, problem = said(tmp_path)
    assert "norm" not in table
    assert problem.startswith("Operators by reference: norm (the self-test of C++ failed:")


@pytest.mark.usefixtures("_built")
@pytest.mark.parametrize("low", [False, True])
def test_an_operator_that_takes_one_operand_for_another_does_not_serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, low: bool
) -> None:
    right = native_norm.norm
    monkeypatch.setattr(
        native_norm, "norm", lambda x, y, epsilon, *rest: right(x, y, epsilon, *reversed(rest))
    )
    _, problem = said(tmp_path, bf16=low)
    assert problem.startswith("Operators by reference: norm (the self-test of C++ failed:")


@pytest.mark.usefixtures("_built")
def test_what_is_float32_in_every_run_is_tried_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = elementwise.sum_of_squares
    monkeypatch.setattr(elementwise, "sum_of_squares", lambda x: right(x) * (1 + 1e-3))
    _, problem = said(tmp_path, bf16=True)
    assert problem.startswith(
        "Operators by reference: sum_of_squares (the self-test of C++ failed:"
    )


@pytest.mark.usefixtures("_not_built")
def test_without_the_library_one_line_says_how_to_build_it(tmp_path: Path) -> None:
    assert said(tmp_path) == [f"Operators by reference: {', '.join(OPERATORS)} ({NOT_BUILT})."]


@pytest.mark.usefixtures("_not_built")
def test_switches_that_nothing_serves_warn_once(tmp_path: Path) -> None:
    _, warning = said(tmp_path, use_fused_rms_norm=True, use_flash_attention=True)
    assert warning == (
        "warning: use_fused_rms_norm, use_flash_attention: no fast operator serves here: "
        f"{NOT_BUILT}."
    )


@pytest.mark.usefixtures("_not_built")
def test_strict_ops_makes_that_an_error(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"use_fused_rope: no fast operator.*make ops"):
        said(tmp_path, use_fused_rope=True, strict_ops=True)
    said(tmp_path, strict_ops=True)  # nothing is asked for


def losses(seed: str, dtype: str) -> list[float]:
    """Of some steps on one batch, with what serves now."""
    published = SEEDS[seed]
    config = FAMILIES[published["model_type"]].read_config(published, seed)
    kinds = ("embedding_dropout", "hidden_dropout", "attention_dropout")
    model = Decoder(replace(config, **dict.fromkeys(kinds, 0.0)))
    initialize(model, seed=1)
    set_compute_dtype(dtype)
    training = TrainingArguments(output_dir="out", max_steps=STEPS, adam_epsilon=1e-3)
    optimizer = ShardedAdamW(
        model, training, topology.current(), tied_embedding=config.tie_word_embeddings
    )
    samples = np.random.default_rng(1).integers(0, config.vocab_size, (2, 33))
    tokens, labels = paddle.to_tensor(samples[:, :-1]), paddle.to_tensor(samples[:, 1:])
    found = []
    for _ in range(STEPS):
        optimizer.begin_step(1)
        loss = model(tokens, labels_BS=labels).mean()
        loss.backward()
        optimizer.step(float(optimizer.reduce_gradients()), 2e-3, LossScale(1.0, is_dynamic=False))
        found.append(float(loss))
    return found


@pytest.mark.usefixtures("_built")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("seed", sorted(set(CAPABILITIES.values())))
def test_training_is_the_same_with_and_without_the_operators(seed: str, dtype: str) -> None:
    expected = losses(seed, dtype)
    dispatch.choose({}, dtype)
    assert OPERATORS["linear"].serving == ("C++",)
    found = losses(seed, dtype)
    assert found[-1] < found[0] - 0.05
    tolerance = 1e-5 if dtype == "float32" else 1e-2
    np.testing.assert_allclose(found, expected, rtol=tolerance)


@pytest.mark.usefixtures("_built")
def test_the_log_of_a_run_keeps_the_table(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    write_data(tmp_path / "data")
    config = small_config(tmp_path / "model", tmp_path / "data", tmp_path / "out", max_steps=1)
    output = run_job(RUN_PRETRAIN, write_config(tmp_path / "run.json", config), log_dir=tmp_path)
    assert output.count("Operators by C++:") == 1
    (kept,) = logged(tmp_path / "out", "operators")
    assert {kept[operator] for operator in OPERATORS} == {"C++"}


def test_a_step_is_a_line_for_scripts_of_paddlenlp_and_an_entry_with_its_seconds(
    tmp_path: Path,
) -> None:
    write_model(tmp_path / "model")
    write_data(tmp_path / "data")
    config = small_config(
        tmp_path / "model",
        tmp_path / "data",
        tmp_path / "out",
        max_steps=4,
        logging_steps=2,
        do_eval=True,
        eval_steps=4,
        eval_iters=1,
    )
    output = run_job(RUN_PRETRAIN, write_config(tmp_path / "run.json", config), log_dir=tmp_path)
    entries = logged(tmp_path / "out")
    found = re.findall(r"- loss: ([\d.]+), .*global_step: (\d+), .* ppl: ([\d.]+), ", output)
    assert found == [
        (str(round(entry["loss"], 8)), str(entry["global_step"]), str(round(entry["ppl"], 4)))
        for entry in entries
    ]
    for entry in entries:
        assert entry["ppl"] == pytest.approx(math.exp(entry["loss"]))
        assert entry["interval_runtime"] == pytest.approx(2 * entry["step_seconds"])
        assert entry["interval_samples_per_second"] * entry["step_seconds"] == pytest.approx(16)
        assert "loss_scale" not in entry
    assert "progress: 2/4 (50.0%), time_left: " in output
    (evaluation,) = logged(tmp_path / "out", "evaluation")
    assert f"- global_step: 4, eval_loss: {evaluation['eval_loss']:.8f}"[:-2] in output
    assert evaluation["eval_runtime"] > 0
