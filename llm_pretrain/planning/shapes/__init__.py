"""A paddle of shapes: what stands in Paddle's place when a step is traced instead of trained.

The program itself runs on it: the models, the layers, the buckets, the optimizer, the pipeline. Its
tensors have shapes and dtypes and no values. Four things make it tell what Paddle would do:

- Memory (`storage`) is an object that is counted from its birth to its end. Python ends it as soon
  as nobody refers to it, which is when Paddle would, since both count references.
- A tensor (`tensor`) is a view of memory: shape, strides, offset.
- An operator (`movement`, `operators`, `functional`) makes its outputs, writes down what it
  computes, and leaves a node that keeps what Paddle's gradient of that operator keeps. The backward
  pass (`autograd`) visits nodes in Paddle's order.
- Collectives (`collectives`) and the operators in C++ and CUDA (`native`, `cuda`) are written down,
  with what they make.

Whatever of Paddle is not here is refused by name. Tests hold the count against that of Paddle's own
allocator (docs/planning_memory.md).
"""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

from llm_pretrain.planning.shapes import (
    autograd,
    collectives,
    cuda,
    functional,
    layers,
    movement,
    operators,
    storage,
    tensor,
)
from llm_pretrain.planning.shapes.tensor import UnknownToShapesError

_MOVEMENT = (
    "arange", "assign", "concat", "einsum", "empty", "empty_like", "full", "full_like", "roll",
    "set_default_dtype", "split", "stack", "tile", "to_tensor", "triu", "zeros",
)  # fmt: skip
_OPERATORS = (
    "add",
    "matmul",
    "maximum",
    "multiply",
    "rsqrt",
    "take_along_axis",
    "where",
)
_FUNCTIONAL = (
    "cross_entropy", "embedding", "gelu", "layer_norm", "linear", "one_hot", "relu", "rms_norm",
    "silu", "softmax_", "swiglu", "thresholded_relu_",
)  # fmt: skip
_COLLECTIVES = (
    "all_reduce",
    "barrier",
    "broadcast",
    "get_rank",
    "get_world_size",
    "is_initialized",
)
_STREAM = ("all_gather", "all_reduce", "alltoall_single", "recv", "reduce_scatter", "send")


class _Module(ModuleType):
    """A module of Paddle's that has what it was given."""

    is_of_shapes = True

    def __init__(self, name: str, **members: Any) -> None:
        super().__init__(name)
        self.__dict__.update(members)
        self.__path__: list[str] = []
        sys.modules[name] = self

    def __getattr__(self, name: str) -> Any:
        raise UnknownToShapesError(f"{self.__name__}.{name}")


def install(device: str = "cpu", *, capability: tuple[int, int] = (8, 0)) -> None:
    """Stand in Paddle's place in this process, which then can't train.

    Args:
        device: "cpu" or "gpu", on which tensors are.
        capability: of the GPU, as CUDA counts it.

    Raises:
        RuntimeError: Paddle is there already.
    """
    present = sys.modules.get("paddle")
    if present is None:
        _make_modules()
    elif not getattr(present, "is_of_shapes", False):
        raise RuntimeError("Paddle is imported: a process that trains can't trace with shapes")
    tensor.place.kind = device
    of_cuda = sys.modules["paddle"].device.cuda
    of_cuda.get_device_capability = lambda *_: capability


def _chosen(module: ModuleType, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(module, name) for name in names}


def _unused(name: str) -> Any:
    """What the program names and a trace never calls."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise UnknownToShapesError(name)

    return refuse


class _Event:
    """Of a device that has always done what it was given."""

    def record(self) -> None:
        """Nothing to remember."""

    def query(self) -> bool:
        return True


def _make_modules() -> None:
    functions = _chosen(functional, _FUNCTIONAL)
    flash = _chosen(functional, ("flash_attention", "flashmask_attention"))
    functions["flash_attention"] = _Module("paddle.nn.functional.flash_attention", **flash)
    nn = _Module(
        "paddle.nn",
        Layer=layers.Layer,
        LayerList=layers.LayerList,
        initializer=SimpleNamespace(Constant=layers.Constant),
        functional=_Module("paddle.nn.functional", **functions),
    )
    fused = {"fused_rotary_position_embedding": functional.fused_rotary_position_embedding}
    _Module("paddle.incubate.nn.functional", **fused)
    _Module("paddle.incubate.nn")
    _Module("paddle.incubate")
    differentiation = _Module(
        "paddle.autograd", PyLayer=autograd.PyLayer, backward=autograd.backward
    )
    _Module("paddle.distributed.fleet.utils", recompute=autograd.recompute)
    reduce_op = SimpleNamespace(SUM="sum", MAX="max")
    distributed = _Module(
        "paddle.distributed",
        fleet=_Module("paddle.distributed.fleet"),
        ReduceOp=reduce_op,
        stream=SimpleNamespace(**_chosen(collectives, _STREAM)),
        **_chosen(collectives, _COLLECTIVES),
    )
    core = _Module(
        "paddle.base.core",
        ProcessGroupGloo=SimpleNamespace(
            **dict.fromkeys(
                ("all_reduce", "all_gather_into_tensor", "broadcast", "create", "recv", "send"),
                _unused("ProcessGroupGloo"),
            )
        ),
        TCPStore=_unused("TCPStore"),
        ReduceOp=reduce_op,
    )
    device = _Module(
        "paddle.device",
        get_device=lambda: f"{tensor.place.kind}{':0' * (tensor.place.kind != 'cpu')}",
        cuda=SimpleNamespace(),
        Event=_Event,
    )
    sys.modules["llm_ops_cuda"] = cuda
    _Module(
        "paddle",
        **storage.DTYPES,
        **_chosen(movement, _MOVEMENT),
        **_chosen(operators, _OPERATORS),
        Tensor=tensor.Tensor,
        dtype=storage.DType,
        zeros_like=movement.empty_like,
        sum=operators.total,
        no_grad=autograd.no_grad,
        is_grad_enabled=lambda: autograd.mode.is_recording,
        create_parameter=layers.create_parameter,
        CPUPlace=lambda: "host",
        CUDAPinnedPlace=lambda: "host",
        set_flags=lambda flags: None,
        _C_ops=SimpleNamespace(adamw_=lambda *_: None),
        nn=nn,
        autograd=differentiation,
        distributed=distributed,
        device=device,
        base=_Module("paddle.base", core=core),
        utils=_Module(
            "paddle.utils",
            dlpack=SimpleNamespace(from_dlpack=_unused("dlpack.from_dlpack")),
        ),
    )
