"""The choice of a device, and what it says of itself, with stand-ins for those that aren't here."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import paddle
import pytest

from llm_pretrain.config import TrainingArguments
from llm_pretrain.machine import device
from llm_pretrain.machine.device import DeviceError, max_memory_allocated, memory_metrics

SCRIPT = """
from llm_pretrain.machine.device import max_memory_allocated
before = max_memory_allocated()
block = bytearray(b"x") * (200 * 2**20)
with_block = max_memory_allocated()
del block
print(before, with_block, max_memory_allocated())
"""


def peaks_of_new_process() -> list[float]:
    """MiB before, with and after a block of 200 MiB, in a process that has held little before."""
    child = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, check=True)
    return [float(peak) for peak in child.stdout.split()]


def test_the_peak_outlives_the_memory() -> None:
    before, with_block, after = peaks_of_new_process()
    # A machine short of memory may have put some of it aside meanwhile.
    assert with_block >= before + 100
    # The kernel counts a few pages late.
    assert after >= with_block - 2


def test_a_child_does_not_start_from_its_parents_peak() -> None:
    block = bytearray(b"x") * (300 * 2**20)
    before, *_ = peaks_of_new_process()
    assert before < max_memory_allocated() / 2
    del block


class Devices:
    """Stands for Paddle's: which there are, and which is in use."""

    def __init__(
        self, patch: pytest.MonkeyPatch, *, gpus: int = 0, plugins: tuple[str, ...] = ()
    ) -> None:
        self.used = "cpu"
        self.flags: dict[str, object] = {}
        self.variable = patch.setenv
        numbers = {"memory_allocated": 1, "memory_reserved": 2, "max_memory_reserved": 4}
        self.memory = {**numbers, "max_memory_allocated": 3}
        cuda = SimpleNamespace(
            device_count=lambda: gpus,
            get_device_name=lambda: "NVIDIA H100 80GB HBM3",
            get_device_capability=lambda: (9, 0),
            **{name: partial(self.allocator, number) for name, number in self.memory.items()},
        )
        patch.setattr(paddle.device, "cuda", cuda)
        patch.setattr(paddle.device, "is_compiled_with_cuda", lambda: gpus > 0)
        patch.setattr(paddle.device, "get_all_custom_device_type", lambda: list(plugins) or None)
        patch.setattr(paddle.device, "set_device", lambda name: setattr(self, "used", name))
        patch.setattr(paddle.device, "get_device", lambda: self.used)
        patch.setattr(paddle, "set_flags", self.flags.update)
        for name in ("FLAGS_selected_gpus", "FLAGS_selected_npus", "PADDLE_RANK_IN_NODE"):
            patch.delenv(name, raising=False)

    def allocator(self, number: int, name: str) -> int:
        """Bytes; plug-ins have no other way to say which device is meant than its name."""
        assert name == self.used
        return number * 2**20

    def chosen(self, wanted: str | None, *, is_alone: bool = True) -> str:
        device.choose(wanted, is_alone=is_alone)
        return self.used


@pytest.mark.parametrize(
    ("wanted", "gpus", "plugins", "chosen"),
    [
        (None, 0, (), "cpu"),
        (None, 2, (), "gpu:0"),
        (None, 0, ("npu",), "npu:0"),
        (None, 1, ("npu",), "gpu:0"),
        ("cpu", 2, ("npu",), "cpu"),
        ("gpu:1", 2, (), "gpu:1"),
        ("npu:3", 0, ("npu",), "npu:3"),
        ("new_one", 0, ("new_one",), "new_one:0"),
        ("gpu", 0, ("npu",), "cpu"),
        ("mlu", 0, (), "cpu"),
    ],
)
def test_the_device_is_the_wanted_one_where_it_is_there(
    monkeypatch: pytest.MonkeyPatch,
    wanted: str | None,
    gpus: int,
    plugins: tuple[str, ...],
    chosen: str,
) -> None:
    devices = Devices(monkeypatch, gpus=gpus, plugins=plugins)
    assert devices.chosen(wanted) == chosen
    assert bool(devices.flags) == chosen.startswith("gpu"), "CUDA's own flags"
    assert device.kind() == chosen.partition(":")[0]


def test_a_process_takes_the_device_that_the_launcher_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    devices = Devices(monkeypatch, gpus=4, plugins=("npu",))
    devices.variable("PADDLE_RANK_IN_NODE", "3")
    assert devices.chosen("npu", is_alone=False) == "npu:3"
    devices.variable("FLAGS_selected_npus", "5")
    assert devices.chosen("npu:0", is_alone=False) == "npu:5"
    devices.variable("FLAGS_selected_gpus", "1,2")
    assert devices.chosen("gpu", is_alone=True) == "gpu:1"


def test_what_is_wanted_in_vain_or_is_new_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    devices = Devices(monkeypatch, plugins=("npu",))
    devices.chosen("gpu")
    assert device.remark("gpu") == "device: gpu has no effect: Paddle can use none here."
    assert device.remark(None) is None
    devices.chosen(None)
    assert "npu has not been tried" in str(device.remark(None))


def test_a_kind_that_nobody_knows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    devices = Devices(monkeypatch, plugins=("npu",))
    with pytest.raises(DeviceError, match="has no toaster here; it can be npu or cpu"):
        devices.chosen("toaster")


@pytest.mark.parametrize(
    ("written", "said"),
    [("gpuu", "did you mean gpu?"), ("np", "did you mean npu?"), ("GPU", "is no device")],
)
def test_a_slip_is_found_before_the_run(written: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        TrainingArguments(output_dir="out", device=written)


def test_memory_and_the_name_are_those_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(memory_metrics()) == ["max_memory_allocated"]
    assert (device.name(), device.compute_capability()) == ("cpu", (0, 0))
    devices = Devices(monkeypatch, gpus=1, plugins=("npu",))
    for wanted, name, capability in (
        ("gpu", "NVIDIA H100 80GB HBM3", (9, 0)),
        ("npu", "npu", (0, 0)),
    ):
        devices.chosen(wanted)
        assert (device.name(), device.compute_capability()) == (name, capability)
        assert memory_metrics() == {
            "current_memory_allocated": 1.0,
            "current_memory_reserved": 2.0,
            "max_memory_allocated": 3.0,
            "max_memory_reserved": 4.0,
        }
        assert max_memory_allocated() == 3.0
