"""The program that writes one rank's part of checkpoints while the rank trains on.

    python -m llm_pretrain.checkpoint.writer DESCRIPTOR

The values lie in memory that the rank shares with it, under a descriptor that it inherits. Requests
and answers are lines of JSON on its standard input and output, one answer for each request. It ends
with the rank, however that ends, so that nothing writes on into the folder of a job that is over.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from llm_pretrain.checkpoint.host_memory import ArrayInMemory
from llm_pretrain.checkpoint.optimizer_state import parse_range
from llm_pretrain.checkpoint.part import FLIPPED, CheckpointPart, Retention, WeightsPart
from llm_pretrain.checkpoint.write_weights import WrittenTensor
from llm_pretrain.config import ConfigError
from llm_pretrain.machine.bit_sum import sum_on_host
from llm_pretrain.machine.files import describe
from llm_pretrain.models.families import family_of, model_of_config

_PR_SET_PDEATHSIG = 1
_NICENESS = 10
"""The training comes first."""


def to_message(part: CheckpointPart) -> dict[str, Any]:
    """A part as JSON."""
    return {
        "checkpoint": str(part.checkpoint),
        "rank": part.rank,
        "is_first_of_disk": part.is_first_of_disk,
        "model": family_of(part.model).write_config(part.model),
        "state": part.state,
        "steps": part.steps,
        "ranges": None if part.ranges is None else [asdict(entry) for entry in part.ranges],
        "weights": None if part.weights is None else asdict(part.weights),
        "extras": [str(path) for path in part.extras],
        "retention": asdict(part.retention),
    }


def from_message(message: Mapping[str, Any]) -> CheckpointPart:
    """The part that `to_message` has described."""
    ranges, weights = message["ranges"], message["weights"]
    return CheckpointPart(
        Path(message["checkpoint"]),
        message["rank"],
        message["is_first_of_disk"],
        model_of_config(message["model"], "the model that is saved"),
        message["state"],
        message["steps"],
        None if ranges is None else [parse_range(entry) for entry in ranges],
        None if weights is None else WeightsPart(**weights),
        [Path(path) for path in message["extras"]],
        Retention(**message["retention"]),
    )


class Writer:
    """Does what the rank asks for, a phase of one checkpoint after the other."""

    def __init__(self, memory: mmap.mmap) -> None:
        self.memory = memory
        self.part: CheckpointPart | None = None
        self.own: dict[str, WrittenTensor] = {}
        """What was written of the part's weights."""

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a request: a problem, "" where there is none, and what was written."""
        phases = {
            "prepare": self._prepare,
            "write": self._write,
            "weights": self._write_made_weights,
            "publish": self._publish,
            "give up": self._give_up,
        }
        try:
            phases[request["phase"]](request)
        except (OSError, ConfigError) as error:
            return {"problem": describe(error), "written": {}}
        return {"problem": "", "written": self.own}

    def _prepare(self, request: Mapping[str, Any]) -> None:
        self.part, self.own = from_message(request["part"]), {}
        self.part.prepare()

    def _write(self, request: Mapping[str, Any]) -> None:
        assert self.part is not None
        for entry, total in request["copied"]:
            if sum_on_host(ArrayInMemory(**entry).values(self.memory).view(np.int32)) != total:
                raise OSError(FLIPPED)
        self.own = self.part.write(
            self._arrays(request["shards"]), self._arrays(request["weights"])
        )

    def _write_made_weights(self, request: Mapping[str, Any]) -> None:
        assert self.part is not None
        self.own |= self.part.write_made_weights()

    def _publish(self, request: Mapping[str, Any]) -> None:
        assert self.part is not None
        everything = {name: WrittenTensor(*entry) for name, entry in request["written"].items()}
        self.part.publish(self.own, everything)

    def _give_up(self, request: Mapping[str, Any]) -> None:
        assert self.part is not None
        self.part.give_up()

    def _arrays(self, entries: Sequence[Any]) -> Iterator[tuple[str, np.ndarray]]:
        for entry in entries:
            array = ArrayInMemory(**entry)
            yield array.name, array.values(self.memory)


def end_with_parent(parent: int) -> None:
    """Have the system end this process when the one that started it is gone."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def main(descriptor: int, parent: int) -> None:
    end_with_parent(parent)
    # The rank decides what a signal to the job means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.nice(_NICENESS)
    writer = Writer(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))
    for line in sys.stdin:
        print(json.dumps(writer.answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
