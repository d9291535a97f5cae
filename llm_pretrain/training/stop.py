"""Stopping at a signal: finish the step, save, leave."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType

import paddle

from llm_pretrain.parallel.comm import collectives, topology


class StopSignal:
    """SIGTERM and SIGINT as a wish that all ranks learn of at the same step.

    Args:
        say: tells the user at once of the first signal, by its number.
    """

    def __init__(self, say: Callable[[int], None]) -> None:
        self.received: int = 0
        self._say = say
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopSignal:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._receive)
            # The launcher sends its signal several times; a system call that one of them breaks
            # off, such as a barrier's receive, would be an error.
            signal.siginterrupt(number, False)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.received:
            return  # one more signal must not end the process before it has told its status
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if not self.received:
            # By a thread, since this one may be in the middle of a line.
            threading.Thread(target=self._say, args=(number,)).start()
        self.received = number

    def agreed(self) -> int:
        """The signal that any rank has received, 0 for none; the same on every rank."""
        if topology.current().world_size == 1:
            return self.received
        wish = paddle.to_tensor([self.received], dtype="int32")
        number = int(collectives.all_reduce_world(wish, "max"))
        if number and not self.received:
            self._receive(number, None)
        return number
