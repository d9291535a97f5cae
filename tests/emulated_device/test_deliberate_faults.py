"""The emulated device catches what would be a wrong number or a hang on a real one.

Each fault ends its program with a message; the same program without it, the control, ends well.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.emulated_device.deliberate_faults import PROCESSES
from tests.launching import run_job

SCRIPT = Path(__file__).with_name("deliberate_faults.py")
NOT_ORDERED = "nothing makes one wait for the other"
SUM = "all_reduce of 1000 float32 (sum)"
MESSAGES = {
    "host_access": ["the host touched device memory at 0x", "byte 0 of a tensor of"],
    "use_after_free": ["that was freed"],
    "out_of_bounds": ["388 bytes at 0x", "byte 0 of a tensor of 384 bytes"],
    "uninitialised_memory": ["the sum is nan"],
    "missing_kernel": ["kernel `hard_shrink` is not registered"],
    "reduction_not_waited_for": ["reads 4000 bytes at 0x", SUM, NOT_ORDERED],
    "gathering_not_waited_for": ["all_gather of 1000 float32", "may still be writing"],
    "scattering_not_waited_for": ["reduce_scatter of 500 float32", "may still be writing"],
    "result_read_too_early": ["copy to the host", SUM, NOT_ORDERED],
    "send_not_waited_for": ["send of 1000 float32 to rank 1", "may still be reading"],
    "sent_tensor_not_held": ["a tensor is freed", "send of 1000 float32", "must be held"],
    "one_group_for_both_directions": ["no progress for", "rank 0 waits for", "rank 1 waits for"],
    "send_before_receive": ["rank 0 waits for the end of its send", "rank 1 waits for"],
    "cpu_tensor_in_a_collective": ["interface not found"],
    "another_order": [SUM, "broadcast of 1000 float32 at root 0"],
    "another_size": [SUM, "all_reduce of 1001 float32 (sum)"],
    "another_type": [SUM, "all_reduce of 1000 int32 (sum)"],
    "a_rank_that_does_not_come": ["rank 0 waits for", SUM, "rank 1 waits for"],
}


@pytest.fixture(scope="module")
def results(
    tmp_path_factory: pytest.TempPathFactory, device_environment: dict[str, str]
) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("faults")
    settings = {**device_environment, "EMULATED_DEVICE_TIMEOUT_S": "6"}
    run_job(SCRIPT, folder, log_dir=folder, environment=settings)
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


def test_every_fault_has_its_message() -> None:
    assert list(MESSAGES) == list(PROCESSES)


@pytest.mark.parametrize("name", PROCESSES)
def test_fault_is_caught(name: str, results: dict[str, Any]) -> None:
    statuses, output = results[name]["fault"].values()
    assert any(status != 0 for status in statuses)
    assert [text for text in MESSAGES[name] if text not in output] == [], output


@pytest.mark.parametrize("name", PROCESSES)
def test_control_ends_well(name: str, results: dict[str, Any]) -> None:
    statuses, output = results[name]["control"].values()
    assert set(statuses) == {0}, output
    assert "emulated device of rank" not in output
