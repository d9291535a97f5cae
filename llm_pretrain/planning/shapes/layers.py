"""paddle.nn.Layer and its kin: where parameters are registered and found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from llm_pretrain.planning.shapes.movement import default
from llm_pretrain.planning.shapes.storage import DType
from llm_pretrain.planning.shapes.tensor import Parameter, Tensor, UnknownToShapesError, new


def create_parameter(
    shape: list[int], dtype: str | DType | None = None, default_initializer: Any = None
) -> Parameter:
    return Parameter(new(shape, dtype or default.dtype).impl)


class Constant:
    """An initializer, of values that nobody has."""

    def __init__(self, value: float) -> None:
        self.value = value


class Layer:
    """Parameters and layers in the order of their first assignment."""

    def __init__(self) -> None:
        self.training = True
        self._parameters: dict[str, Parameter] = {}
        self._layers: dict[str, Layer] = {}
        self._before: list[Callable] = []
        self._after: list[Callable] = []

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Parameter):
            self._parameters[name] = value
        elif isinstance(value, Layer):
            self._layers[name] = value
        object.__setattr__(self, name, value)

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        for hook in self._before:
            hook(self, inputs)
        output = self.forward(*inputs, **options)
        for hook in self._after:
            hook(self, inputs, output)
        return output

    def forward(self, *inputs: Any, **options: Any) -> Any:
        raise UnknownToShapesError(f"forward of {type(self).__name__}")

    def create_parameter(
        self, shape: list[int], dtype: str | None = None, default_initializer: Any = None
    ) -> Parameter:
        return create_parameter(shape, dtype, default_initializer)

    def add_parameter(self, name: str, parameter: Parameter) -> None:
        setattr(self, name, parameter)

    def register_forward_pre_hook(self, hook: Callable) -> None:
        self._before.append(hook)

    def register_forward_post_hook(self, hook: Callable) -> None:
        self._after.append(hook)

    def train(self) -> None:
        self._set_training(True)

    def eval(self) -> None:
        self._set_training(False)

    def _set_training(self, is_training: bool) -> None:
        for layer in self.sublayers(include_self=True):
            layer.training = is_training

    def named_sublayers(
        self, prefix: str = "", include_self: bool = False, seen: set[int] | None = None
    ) -> Iterator[tuple[str, Layer]]:
        seen = set() if seen is None else seen
        if include_self and id(self) not in seen:
            seen.add(id(self))
            yield prefix, self
        for name, layer in self._layers.items():
            path = f"{prefix}.{name}" if prefix else name
            yield from layer.named_sublayers(path, True, seen)

    def sublayers(self, include_self: bool = False) -> list[Layer]:
        return [layer for _, layer in self.named_sublayers(include_self=include_self)]

    def named_parameters(
        self, prefix: str = "", include_sublayers: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        layers: Iterable[tuple[str, Layer]] = [(prefix, self)]
        if include_sublayers:
            layers = self.named_sublayers(prefix, include_self=True)
        seen: set[int] = set()
        for path, layer in layers:
            for name, parameter in layer._parameters.items():
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield f"{path}.{name}" if path else name, parameter

    def parameters(self, include_sublayers: bool = True) -> list[Tensor]:
        return [one for _, one in self.named_parameters(include_sublayers=include_sublayers)]


class LayerList(Layer):
    """Layers by number."""

    def __init__(self, layers: Iterable[Layer] = ()) -> None:
        super().__init__()
        for layer in layers:
            self.append(layer)

    def append(self, layer: Layer) -> None:
        self._layers[str(len(self._layers))] = layer

    def __len__(self) -> int:
        return len(self._layers)

    def __iter__(self) -> Iterator[Layer]:
        return iter(self._layers.values())
