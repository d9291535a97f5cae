"""The squared ReLU (So et al., arXiv:2109.08668).

docs/adding_an_operator.md takes this file as its example; the program does not have it.
"""

from __future__ import annotations

from paddle import Tensor
from paddle.nn import functional as F

from llm_pretrain.ops.operator import Draw, Operator, in_float32_on_cpu
from tests.ops import cpp_squared_relu as cpp

SQUARED_RELU = Operator("squared_relu", cpp=cpp)


@SQUARED_RELU.reference
def squared_relu(x: Tensor) -> Tensor:
    """relu(x)², elementwise."""
    return in_float32_on_cpu(lambda x: F.relu(x).square(), x)


@SQUARED_RELU.self_test
def _example(draw: Draw) -> list[Tensor]:
    x = draw(3, 40)
    return draw.with_gradients([squared_relu(x)], [x])
