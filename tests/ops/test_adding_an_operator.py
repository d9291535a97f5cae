"""docs/adding_an_operator.md, followed: the squared ReLU, which the program lacks, is added."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import Tensor

from llm_pretrain.ops import OPERATORS, dispatch
from llm_pretrain.ops.native import library
from llm_pretrain.ops.operator import Operator
from tests.chosen_operators import said
from tests.ops import cpp_squared_relu
from tests.ops.comparison import close, normal, results
from tests.ops.formulas import assert_equal_formula
from tests.ops.squared_relu import SQUARED_RELU, squared_relu

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "adding_an_operator.md").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The line that the page adds to `OPERATORS`."""
    monkeypatch.setitem(OPERATORS, "squared_relu", SQUARED_RELU)
    yield
    dispatch.use_references()


@pytest.fixture
def _built() -> None:
    found, reason = library.find()
    if found is None:
        pytest.skip(reason)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_reference_is_the_formula(dtype: str) -> None:
    x = np.random.default_rng(1).standard_normal((3, 40))
    assert_equal_formula(squared_relu, lambda x: x * x * (x > 0).astype(x.dtype), [x], dtype)


@pytest.mark.usefixtures("_built")
@pytest.mark.parametrize("bf16", [False, True])
def test_a_run_tests_it_and_takes_it(tmp_path: Path, bf16: bool) -> None:
    (line,) = said(tmp_path, bf16=bf16)
    assert line.startswith("Operators by C++: ")
    assert "squared_relu" in line
    x = normal("bfloat16" if bf16 else "float32", 7, 33)
    found = results(squared_relu, [x])
    with SQUARED_RELU.by_reference():
        expected = results(squared_relu, [x])
    close(found, expected, 1e-2 if bf16 else 1e-6)


@pytest.mark.usefixtures("_built")
def test_what_computes_something_else_does_not_serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = cpp_squared_relu.squared_relu

    def wrong(x: Tensor) -> Tensor:
        return right(x) * 1.1

    monkeypatch.setattr(cpp_squared_relu, "squared_relu", wrong)
    _, problem = said(tmp_path)
    assert problem.startswith("Operators by reference: squared_relu (the self-test of C++ failed:")


@pytest.mark.usefixtures("_built")
def test_what_it_does_not_take_goes_to_the_reference() -> None:
    SQUARED_RELU.serve_by("C++")
    x = paddle.to_tensor([-1.0, 3.0])
    assert cpp_squared_relu.squared_relu(x.astype("float16")) is NotImplemented
    assert squared_relu(x.astype("float16")).tolist() == [0.0, 9.0]
    assert squared_relu(paddle.zeros([0, 8])).shape == [0, 8]


def test_the_page_names_all_that_an_operator_takes() -> None:
    named = re.findall(r"^\| `(\w+)", PAGE, re.MULTILINE)
    assert named == [name for name in inspect.signature(Operator).parameters if name != "name"]


def test_the_code_of_the_page_is_that_of_the_files() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    files = ("squared_relu.py", "cpp_squared_relu.py")
    for block, file in zip(blocks, files, strict=True):
        assert block in (ROOT / "tests" / "ops" / file).read_text(encoding="utf-8")


def test_every_file_that_the_page_names_exists() -> None:
    files = re.findall(r"`((?:tests|llm_pretrain|external_ops)/[\w/]+(?:\.py|\.cc|/))`", PAGE)
    assert files
    assert [file for file in files if not (ROOT / file).exists()] == []
