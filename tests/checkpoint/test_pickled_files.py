"""Files of torch.save and paddle.save: read without unpickling, and refused where they do more."""

from __future__ import annotations

import os
import pickle
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import paddle
import pytest

from llm_pretrain.checkpoint.pickled_files import read_paddle_file, read_torch_file
from llm_pretrain.checkpoint.safetensors_file import StoredTensor, UnreadableFileError, to_float32

VALUES = np.arange(12, dtype=np.float32).reshape(3, 4)


class Storage(NamedTuple):
    """Pickled as torch pickles a storage."""

    kind: type
    key: str
    values: np.ndarray


class FakeTorch(NamedTuple):
    """What a file of torch names, so that such files can be made where torch is not."""

    storages: dict[str, type]
    rebuild: Callable[..., Any]

    def tensor(
        self, storage: Storage, shape: tuple[int, ...], strides: tuple[int, ...], offset: int = 0
    ) -> Any:
        arguments = (storage, offset, shape, strides, False, OrderedDict())
        return Reduced(self.rebuild, arguments)


class Reduced:
    """Pickled as a call."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


class TorchPickler(pickle.Pickler):
    def persistent_id(self, entry: Any) -> Any:
        if isinstance(entry, Storage):
            return ("storage", entry.kind, entry.key, "cpu", entry.values.size)
        return None


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> FakeTorch:
    names = ("FloatStorage", "HalfStorage", "BFloat16Storage", "BoolStorage")
    storages = {name: type(name, (), {"__module__": "torch"}) for name in names}

    def rebuild() -> None: ...

    rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    package, utils = ModuleType("torch"), ModuleType("torch._utils")
    package.__dict__.update(storages)
    utils._rebuild_tensor_v2 = rebuild  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch", package)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    return FakeTorch(storages, rebuild)


def write_torch_file(
    path: Path,
    state: Any,
    storages: list[Storage],
    *,
    compression: int = zipfile.ZIP_STORED,
    byteorder: str = "little",
) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        with archive.open("model/data.pkl", "w") as file:
            TorchPickler(file, protocol=2).dump(state)
        archive.writestr("model/byteorder", byteorder)
        for storage in storages:
            archive.writestr(f"model/data/{storage.key}", storage.values.tobytes())
    return path


def read_all(tensor: StoredTensor) -> np.ndarray:
    return to_float32(tensor.read(tuple(slice(None) for _ in tensor.shape)))


def refused(read: Callable[[Path], Any], path: Path) -> str:
    with pytest.raises(UnreadableFileError) as error:
        read(path)
    return str(error.value)


def test_tensors_of_torch(tmp_path: Path, torch: FakeTorch) -> None:
    full = Storage(torch.storages["FloatStorage"], "0", VALUES)
    half = Storage(torch.storages["HalfStorage"], "1", VALUES.astype(np.float16))
    bits = (VALUES.view(np.uint32) >> 16).astype(np.uint16)
    brain = Storage(torch.storages["BFloat16Storage"], "2", bits)
    mask = Storage(torch.storages["BoolStorage"], "3", VALUES > 5)
    state = OrderedDict(
        whole=torch.tensor(full, (3, 4), (4, 1)),
        transposed=torch.tensor(full, (4, 3), (1, 4)),
        row=torch.tensor(full, (4,), (1,), offset=4),
        half=torch.tensor(half, (3, 4), (4, 1)),
        brain=torch.tensor(brain, (3, 4), (4, 1)),
        mask=torch.tensor(mask, (3, 4), (4, 1)),
        scalar=torch.tensor(full, (), (), offset=7),
    )
    path = write_torch_file(tmp_path / "pytorch_model.bin", state, [full, half, brain, mask])
    tensors = read_torch_file(path)
    assert {name: tensor.dtype for name, tensor in tensors.items()} == {
        "whole": "float32",
        "transposed": "float32",
        "row": "float32",
        "half": "float16",
        "brain": "bfloat16",
        "mask": "bool",
        "scalar": "float32",
    }
    np.testing.assert_array_equal(read_all(tensors["transposed"]), VALUES.T)
    np.testing.assert_array_equal(read_all(tensors["row"]), VALUES[1])
    for name in ("whole", "half", "brain"):
        np.testing.assert_array_equal(read_all(tensors[name]), VALUES)
    part = tensors["whole"].read((slice(1, 3), slice(0, 2)))
    np.testing.assert_array_equal(part, VALUES[1:, :2])
    assert read_all(tensors["scalar"]) == 7
    with pytest.raises(UnreadableFileError, match="has the type bool"):
        read_all(tensors["mask"])


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [((3, 4), (4, 1), 1), ((4, 4), (4, 1), 0), ((2**40, 4), (2**30, 1), 0), ((3,), (-1,), 0)],
)
def test_tensors_outside_their_storage(
    tmp_path: Path,
    torch: FakeTorch,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    offset: int,
) -> None:
    storage = Storage(torch.storages["FloatStorage"], "0", VALUES)
    state = {"outside": torch.tensor(storage, shape, strides, offset)}
    path = write_torch_file(tmp_path / "pytorch_model.bin", state, [storage])
    assert "can't be understood" in refused(read_torch_file, path)


def test_unusable_archives_of_torch(tmp_path: Path, torch: FakeTorch) -> None:
    path = tmp_path / "pytorch_model.bin"
    storage = Storage(torch.storages["FloatStorage"], "0", VALUES)
    state = {"weight": torch.tensor(storage, (3, 4), (4, 1))}
    write_torch_file(path, state, [storage], compression=zipfile.ZIP_DEFLATED)
    assert "is compressed" in refused(read_torch_file, path)
    write_torch_file(path, state, [storage], byteorder="big")
    assert "big-endian" in refused(read_torch_file, path)
    write_torch_file(path, state, [])
    assert "no entry model/data/0" in refused(read_torch_file, path)
    write_torch_file(path, {"epoch": 3}, [])
    assert "'epoch' is no tensor" in refused(read_torch_file, path)
    write_torch_file(path, [1], [])
    assert "no state dict" in refused(read_torch_file, path)
    path.write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C))
    assert "torch before 1.6" in refused(read_torch_file, path)
    path.write_bytes(b"")
    assert "no zip archive" in refused(read_torch_file, path)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_tensors_of_paddle(tmp_path: Path, protocol: int) -> None:
    # More than 64 KiB, and every byte: what protocol 2 writes as text.
    large = np.arange(2**15, dtype=np.float32).reshape(128, 256) / 3
    state = {
        "large": paddle.to_tensor(large),
        "half": paddle.to_tensor(VALUES).astype("float16"),
        "brain": paddle.to_tensor(VALUES).astype("bfloat16"),
    }
    path = tmp_path / "model_state.pdparams"
    paddle.save(state, str(path), protocol=protocol)
    tensors = read_paddle_file(path)
    assert [tensor.dtype for tensor in tensors.values()] == ["float32", "float16", "bfloat16"]
    np.testing.assert_array_equal(read_all(tensors["large"]), large)
    np.testing.assert_array_equal(tensors["large"].read((slice(5, 7), slice(3))), large[5:7, :3])
    for name in ("half", "brain"):
        np.testing.assert_array_equal(read_all(tensors[name]), VALUES)


def test_arrays_and_tensors_side_by_side(tmp_path: Path) -> None:
    """As PaddleNLP saves what it has merged."""
    path = tmp_path / "model_state.pdparams"
    state = {"array": np.asfortranarray(VALUES), "tensor": paddle.to_tensor(VALUES)}
    paddle.save(state, str(path))
    for tensor in read_paddle_file(path).values():
        np.testing.assert_array_equal(read_all(tensor), VALUES)


def test_a_tensor_that_was_cut(tmp_path: Path) -> None:
    """Above 1 GiB, with protocols 2 and 3."""
    path = tmp_path / "model_state.pdparams"
    slices = ["weight@@.0", "weight@@.1"]
    state = {
        "other": VALUES[0],
        slices[0]: VALUES.reshape(-1)[:7],
        slices[1]: VALUES.reshape(-1)[7:],
        "UnpackBigParamInfor@@": {"weight": {"OriginShape": (3, 4), "slices": slices}},
    }
    path.write_bytes(pickle.dumps(state, protocol=2))
    tensors = read_paddle_file(path)
    assert tensors.keys() == {"other", "weight"}
    assert tensors["weight"].shape == (3, 4)
    np.testing.assert_array_equal(read_all(tensors["weight"]), VALUES)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (os.system, ("touch executed",), f"{os.name}.system"),
        (eval, ("open('executed', 'w')",), "eval"),
        (getattr, ("", "join"), "getattr"),
        (np.load, ("executed",), "numpy.load"),
    ],
)
def test_a_pickle_that_would_run_something(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    function: Callable[..., Any],
    arguments: tuple[str, ...],
    name: str,
    protocol: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    state = {"weight": Reduced(function, arguments)}
    paddles = tmp_path / "model_state.pdparams"
    paddles.write_bytes(pickle.dumps(state, protocol=protocol))
    torchs = write_torch_file(tmp_path / "pytorch_model.bin", state, [])
    for message in (refused(read_paddle_file, paddles), refused(read_torch_file, torchs)):
        assert name in message
        assert "not loaded" in message
    assert not (tmp_path / "executed").exists()


def test_arrays_of_objects(tmp_path: Path) -> None:
    path = tmp_path / "model_state.pdparams"
    path.write_bytes(pickle.dumps({"weight": np.array([1, "a"], dtype=object)}, protocol=4))
    assert "can't be understood" in refused(read_paddle_file, path)


def doubled(times: int = 12) -> tuple[Any, ...]:
    """A pickle of a few bytes a time, whose hash and text take twice as long each time."""
    value: tuple[Any, ...] = ()
    for _ in range(times):
        value = (value, value)
    return value


@pytest.mark.parametrize(
    "state",
    [
        {doubled(): VALUES},
        {"weight": Reduced(np.dtype, (doubled(),))},
        {"weight": VALUES, "UnpackBigParamInfor@@": {"whole": {"slices": [doubled()]}}},
        {"weight": VALUES, "UnpackBigParamInfor@@": ["whole"]},
    ],
    ids=["key", "type", "slice", "table"],
)
def test_only_texts_are_names(tmp_path: Path, state: Any) -> None:
    path = tmp_path / "model_state.pdparams"
    path.write_bytes(pickle.dumps(state, protocol=4))
    assert "can't be understood" in refused(read_paddle_file, path)


@pytest.mark.parametrize("content", ["key", "storage", "dictionary"])
def test_only_texts_are_names_in_torch(tmp_path: Path, torch: FakeTorch, content: str) -> None:
    name: Any = doubled() if content == "storage" else "0"
    storage = Storage(torch.storages["FloatStorage"], name, VALUES)
    tensor = torch.tensor(storage, VALUES.shape, (4, 1))
    states = {
        "key": {doubled(): tensor},
        "storage": {"weight": tensor},
        "dictionary": Reduced(OrderedDict, ([(doubled(), tensor)],)),
    }
    written = [] if content == "storage" else [storage]
    path = write_torch_file(tmp_path / "pytorch_model.bin", states[content], written)
    assert "can't be understood" in refused(read_torch_file, path)


def test_damaged_pickles(tmp_path: Path) -> None:
    path = tmp_path / "model_state.pdparams"
    whole = pickle.dumps({"weight": VALUES, "other": VALUES}, protocol=4)
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        refused(read_paddle_file, path)
    path.write_bytes(b"\x80\x04i0\n.")
    assert "has the instruction b'i'" in refused(read_paddle_file, path)
    path.write_bytes(pickle.dumps({"weight": 3}))
    assert "'weight' is no array" in refused(read_paddle_file, path)
    path.write_bytes(pickle.dumps([VALUES]))
    assert "no state dict" in refused(read_paddle_file, path)


def test_any_changed_byte_is_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "model_state.pdparams"
    whole = pickle.dumps({"weight": VALUES}, protocol=4)
    generator = np.random.default_rng(0)
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= int(generator.integers(1, 256))
        path.write_bytes(changed)
        try:
            tensors = read_paddle_file(path)
        except UnreadableFileError:
            continue
        assert all(tensor.array().size <= 12 for tensor in tensors.values())
