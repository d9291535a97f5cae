"""What Paddle's collectives over Gloo lack, supplied so that every layout runs on CPU processes.

Ranks of one machine exchange values through memory that they share (`shared_memory`), and meet over
Gloo. Over several machines, or without the C++ library, Gloo does all. Seven things are added to it
(Paddle 3.3):

- All groups meet in one store, under keys that carry no group's name, so that with more than two
  processes they read one another's stale addresses. Here each group meets in a store of its own.
- `reduce_scatter` is not implemented. Here each part is reduced to its owner.
- `all_to_all` is not implemented. Here each part is sent to its owner.
- float16 is reduced wrongly: 1 + 2 is inf. Here it is reduced in float32.
- Gloo tells messages apart by counting a group's calls, which must therefore come in one order on
  all its ranks. In a pipeline they don't. Here each direction between two ranks has its own group.
- `sync_op=False` is not heeded. Here such an operation runs in a thread of its group, after those
  that were begun before it.
- Any operation gives up after 30 s. Here at least a barrier waits, so that ranks can meet again
  after work that only some of them do.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import paddle

from llm_pretrain.ops import internals
from llm_pretrain.parallel.comm.gloo_groups import Groups

_all_reduce = internals.ProcessGroupGloo.all_reduce
_all_gather = internals.ProcessGroupGloo.all_gather_into_tensor
_broadcast = internals.ProcessGroupGloo.broadcast
_send = internals.ProcessGroupGloo.send
_recv = internals.ProcessGroupGloo.recv


class _Task:
    """An operation: ended, or run by a thread, whose error is raised where it is waited for."""

    def __init__(self, future: Future | None = None) -> None:
        self.future = future

    def wait(self) -> bool:
        if self.future is not None:
            self.future.result()
        return True

    def is_completed(self) -> bool:
        return self.future is None or self.future.done()

    def synchronize(self) -> None:
        self.wait()


class _Queue:
    """Runs one group's operations in the order in which they were begun."""

    def __init__(self) -> None:
        self.waiting: queue.SimpleQueue[tuple[Future, Callable[[], Any]] | None] = (
            queue.SimpleQueue()
        )
        self.last: Future | None = None
        self.thread: threading.Thread | None = None

    def run(self, operation: Callable[[], Any], sync_op: bool) -> _Task:
        """Run it here if it is to be waited for and nothing is under way, else in the thread."""
        if sync_op and (self.last is None or self.last.done()):
            operation()
            return _Task()
        if self.last is None:
            # A daemon: it cannot keep a failed process from ending.
            self.thread = threading.Thread(target=self._work, daemon=True, name="gloo")
            self.thread.start()
        self.last = Future()
        self.waiting.put((self.last, operation))
        task = _Task(self.last)
        if sync_op:
            task.wait()
        return task

    def end(self) -> bool:
        """End the thread, whose operations fail by now; whether it has ended."""
        if self.thread is None:
            return True
        self.waiting.put(None)
        self.thread.join(_PATIENCE_SECONDS)
        return not self.thread.is_alive()

    def _work(self) -> None:
        while True:
            task = self.waiting.get()
            if task is None:
                return
            future, operation = task
            try:
                operation()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(None)
            # The operation's tensors must not live until the next one comes.
            del task, future, operation


class _Operations:
    """A Gloo group's methods; `group` is the group that each is called on."""

    def __init__(self, groups: Groups) -> None:
        self.groups = groups
        self.queues: dict[tuple[int, int], _Queue] = {}

    def _queue(self, group: Any, destination: int = -1) -> _Queue:
        """The group's queue, or that of its messages to `destination`."""
        return self.queues.setdefault((id(group), destination), _Queue())

    def close(self) -> None:
        """End the threads, and part from the groups."""
        have_ended = [one.end() for one in self.queues.values()]
        if all(have_ended):  # a thread that has not may still be in the memory
            for memory in self.groups.shared.values():
                memory.close()
        self.queues.clear()
        self.groups.forget()

    def all_reduce(
        self, group: Any, tensor: Any, operation: Any = internals.SUM, sync_op: bool = True
    ) -> _Task:
        def run() -> None:
            if tensor.dtype != paddle.float16:
                reduce(tensor)
                return
            wide = tensor.astype("float32")
            reduce(wide)
            tensor.copy_(wide.astype("float16"), True)

        def reduce(values: Any) -> None:
            memory = self.groups.shared.get(id(group))
            if memory is not None and memory.reduces(values, operation):
                memory.all_reduce(values, operation)
            else:
                _all_reduce(group, values, operation, True).wait()

        return self._queue(group).run(run, sync_op)

    def all_gather(self, group: Any, whole: Any, part: Any, sync_op: bool = True) -> _Task:
        def run() -> None:
            memory = self.groups.shared.get(id(group))
            if memory is not None:
                memory.all_gather(whole, part)
            else:
                _all_gather(group, whole, part, True).wait()

        return self._queue(group).run(run, sync_op)

    def broadcast(self, group: Any, tensor: Any, source: int, sync_op: bool = True) -> _Task:
        def run() -> None:
            memory = self.groups.shared.get(id(group))
            if memory is not None:
                memory.broadcast(tensor, source)
            else:
                _broadcast(group, tensor, source, True).wait()

        return self._queue(group).run(run, sync_op)

    def reduce_scatter(
        self,
        group: Any,
        part: Any,
        whole: Any,
        operation: Any = internals.SUM,
        sync_op: bool = True,
    ) -> _Task:
        def run() -> None:
            memory = self.groups.shared.get(id(group))
            if memory is not None and memory.reduces(whole, operation):
                memory.reduce_scatter(part, whole, operation)
                return
            size = whole.shape[0] // group.size()
            for owner in range(group.size()):
                share = internals.view(whole, owner * size, (owner + 1) * size)
                share = share.astype("float32") if whole.dtype == paddle.float16 else share.clone()
                group.reduce(share, owner, operation, True).wait()
                if owner == group.rank():
                    part.copy_(share.astype(part.dtype).reshape(part.shape), True)

        return self._queue(group).run(run, sync_op)

    def all_to_all(
        self,
        group: Any,
        received: Any,
        sent: Any,
        received_sizes: list[int],
        sent_sizes: list[int],
        sync_op: bool = True,
    ) -> _Task:
        """Parts along the first axis; without sizes, as many equal ones as ranks."""
        count, mine = group.size(), group.rank()
        into = _parts(received, received_sizes or [received.shape[0] // count] * count)
        out_of = _parts(sent, sent_sizes or [sent.shape[0] // count] * count)
        # Pairs are formed here, in the thread that owns the common store, once every send is begun.
        tasks = [
            self.send(group, part, rank, False) for rank, part in out_of.items() if rank != mine
        ]
        sources = [
            (self._receiver(group, rank), part) for rank, part in into.items() if rank != mine
        ]

        def run() -> None:
            if mine in into:
                into[mine].copy_(out_of[mine], True)
            for receive, part in sources:
                receive(part)
            for task in tasks:
                task.wait()

        return self._queue(group).run(run, sync_op)

    def send(self, group: Any, tensor: Any, destination: int, sync_op: bool = True) -> _Task:
        memory = self.groups.shared.get(id(group))
        if memory is not None:
            return self._queue(group, destination).run(
                lambda: memory.send(tensor, destination), sync_op
            )
        sender = self.groups.sender(group, destination)
        return self._queue(group, destination).run(
            lambda: _send(sender(), tensor, 1, True).wait(), sync_op
        )

    def receive(self, group: Any, tensor: Any, source: int, sync_op: bool = True) -> _Task:
        self._receiver(group, source)(tensor)
        return _Task()

    def _receiver(self, group: Any, source: int) -> Callable[[Any], None]:
        """What fills a tensor with the next message from `source`."""
        memory = self.groups.shared.get(id(group))
        if memory is not None:
            return lambda tensor: memory.receive(tensor, source)
        pair = self.groups.receiver(group, source)
        return lambda tensor: _recv(pair, tensor, 0, True).wait()

    def barrier(self, group: Any, *_: Any) -> _Task:
        self.groups.barrier(group)
        return _Task()


_PATIENCE_SECONDS = 5.0
"""For a thread whose operation has been told to fail."""
_operations: _Operations | None = None


def _parts(tensor: Any, sizes: list[int]) -> dict[int, Any]:
    """The part of every rank that has one."""
    ends = list(itertools.accumulate(sizes))
    return {
        rank: internals.view(tensor, end - size, end)
        for rank, (size, end) in enumerate(zip(sizes, ends, strict=True))
        if size
    }


def install(timeout_seconds: int) -> None:
    """Complete `paddle.distributed` over Gloo. Call before an epoch's first group is formed."""
    global _operations
    groups = Groups(timeout_seconds)
    _operations = operations = _Operations(groups)
    process_group = internals.ProcessGroupGloo
    process_group.create = staticmethod(groups.create)
    methods: dict[str, Callable[..., _Task]] = {
        "all_reduce": operations.all_reduce,
        "all_gather_into_tensor": operations.all_gather,
        "broadcast": operations.broadcast,
        "reduce_scatter_tensor": operations.reduce_scatter,
        "all_to_all_single": operations.all_to_all,
        "send": operations.send,
        "recv": operations.receive,
        "barrier": operations.barrier,
    }
    for name, method in methods.items():
        setattr(process_group, name, _as_method(method))


def uninstall() -> None:
    """Let go of the groups of this epoch; the connections in them are lost already."""
    global _operations
    if _operations is not None:
        _operations.close()
    _operations = None


def _as_method(operation: Callable[..., _Task]) -> Callable[..., _Task]:
    # A bound method set on a class would not be given the group that it is called on.
    return lambda group, *arguments: operation(group, *arguments)
