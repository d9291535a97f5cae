"""Parts of a corpus as tasks of Ray: of the cluster that is there, or of this machine alone.

The machines of a cluster share the disk of the inputs and the output, and each has this program. A
part that is lost, with its process or its machine, is done again from its last whole input on.
"""

from __future__ import annotations

import io
import logging
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, TextIO

from llm_pretrain.data.preprocess.parts import Part
from llm_pretrain.data.preprocess.streams import PreprocessError, import_extra
from llm_pretrain.machine.terminal import say

MOST_LOSSES = 4
"""Of one part; once more, and it is not done again: it may be the part that ends machines."""
_SECONDS_BETWEEN_LINES = 30.0

DoPart = Callable[[Part, TextIO], None]
"""Do a part, and write what there is to say of it. Other machines import it by its name."""


def do_parts(
    do_part: DoPart, parts: Sequence[Part], sizes: Sequence[int], workers: int, out: TextIO
) -> None:
    """Do all parts, `sizes` bytes of text each, with up to `workers` processes for each.

    Raises:
        PreprocessError: Ray is not installed; a part can't be done, or is lost again and again.
    """
    # Ray asks on its first start whether it may report on its use: it may not.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = import_extra("ray", "--engine ray needs", extra="ray")
    ray.init(log_to_driver=False, logging_level=logging.ERROR)
    try:
        _Parts(ray, do_part, parts, sizes, out).do(_processors_of_a_task(ray, workers))
    finally:
        ray.shutdown()


def _processors_of_a_task(ray: Any, workers: int) -> int:
    """As many as there are workers; no more than the largest machine has, or none could begin."""
    machines = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    return max(1, min(workers, int(max(machines, default=1))))


class _Parts:
    def __init__(
        self,
        ray: Any,
        do_part: DoPart,
        parts: Sequence[Part],
        sizes: Sequence[int],
        out: TextIO,
    ) -> None:
        self._ray, self._do_part, self._out = ray, do_part, out
        self._sizes = dict(zip(parts, sizes, strict=True))
        self._done: list[Part] = []
        self._losses = dict.fromkeys(parts, 0)
        self._under_way: dict[Any, Part] = {}

    def do(self, processors: int) -> None:
        # Losses are counted here, so that each is told.
        task = self._ray.remote(num_cpus=processors, max_retries=0)(said_of_part)
        for part in self._sizes:
            self._under_way[task.remote(self._do_part, part)] = part
        self._tell(f"{len(self._sizes)} parts; {processors} processors for each")
        told = time.monotonic()
        while self._under_way:
            ended, _ = self._ray.wait([*self._under_way], timeout=_SECONDS_BETWEEN_LINES)
            for result in ended:
                self._end(result, self._under_way.pop(result), task)
            if ended or time.monotonic() - told > _SECONDS_BETWEEN_LINES:
                told = time.monotonic()
                self._tell(self._how_far())

    def _end(self, result: Any, part: Part, task: Any) -> None:
        try:
            said = self._ray.get(result)
        except self._ray.exceptions.RayTaskError as error:
            raise PreprocessError(
                f"part {part}: {error.cause}\nParts that are done are kept: the same command goes "
                "on with the others."
            ) from None
        except self._ray.exceptions.RayError as error:
            self._losses[part] += 1
            if self._losses[part] > MOST_LOSSES:
                raise PreprocessError(
                    f"part {part} was lost {self._losses[part]} times: {_first_line(error)}"
                ) from None
            self._tell(f"part {part} was lost and is done again: {_first_line(error)}")
            self._under_way[task.remote(self._do_part, part)] = part
            return
        self._done.append(part)
        self._tell(f"part {part}: {said}")

    def _how_far(self) -> str:
        share = sum(self._sizes[part] for part in self._done) / max(sum(self._sizes.values()), 1)
        return f"{len(self._done)} of {len(self._sizes)} parts are done, {share:.1%} of the text"

    def _tell(self, line: str) -> None:
        say(f"ray: {line}", self._out)


def said_of_part(do_part: DoPart, part: Part) -> str:
    """The last line that is said of a part when it is done; the work of a task."""
    lines = io.StringIO()
    do_part(part, lines)
    return (lines.getvalue().splitlines() or [""])[-1]


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
