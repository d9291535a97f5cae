"""Reading a pickle that may hold tensors and plain values, and nothing else.

Python's own unpickler imports and calls whatever the file names, and copies all that it reads.
This one calls what its caller allows, and leaves bytes where they are in the file. It knows the
instructions that protocols 2 to 4 use for plain values; their meaning is that of the standard
library's `pickletools`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from llm_pretrain.checkpoint.safetensors_file import UnreadableFileError

MALFORMED = (
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    ArithmeticError,
    struct.error,
)
"""What following a damaged pickle raises."""
# A text of this size is a large array's bytes as protocol 2 has them; see `load_pickle`.
_LONG_TEXT = 2**16


@runtime_checkable
class Buildable(Protocol):
    """What is made first and given its state afterwards."""

    def build(self, state: Any) -> None: ...


@dataclass(frozen=True)
class Global:
    """A function or class that a pickle names."""

    name: str
    call: Callable[..., Any]


def load_pickle(
    data: memoryview,
    functions: Mapping[str, Callable[..., Any]],
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """The object of a pickle.

    Args:
        data: bytes in the result are views of it; so are texts of 64 KiB and more, undecoded.
        functions: what the pickle may name, as "module.name", and what is called for it.
        persistent: makes the object that a persistent id stands for.

    Raises:
        UnreadableFileError: it names something else, or can't be understood.
    """
    machine = _Machine(data, functions, persistent)
    try:
        return machine.run()
    except MALFORMED as error:
        if isinstance(error, UnreadableFileError):
            raise
        raise UnreadableFileError(
            f"its pickle can't be understood at byte {machine.position}"
        ) from None


def as_text(value: Any) -> str:
    """`value`, which must be a text before it is hashed or written.

    A tuple of itself twice, of itself twice, and so on takes a few bytes of a pickle, and longer
    than any file to hash.
    """
    if not isinstance(value, str):
        raise TypeError
    return value


class _Machine:
    """The stack machine that a pickle is a program for."""

    def __init__(
        self,
        data: memoryview,
        functions: Mapping[str, Callable[..., Any]],
        persistent: Callable[[Any], Any] | None,
    ) -> None:
        self.data = data
        self.functions = functions
        self.persistent = persistent
        self.position = 0
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        while (code := bytes(self.take(1))) != b".":
            if code in _CONSTANTS:
                self.stack.append(_CONSTANTS[code])
            elif code in _NUMBERS:
                self.stack.append(self.number(_NUMBERS[code]))
            elif code in _BYTES:
                self.stack.append(self.take(self.number(_BYTES[code])))
            elif code in _TEXTS:
                self.stack.append(self.text(self.number(_TEXTS[code])))
            elif code in _PUTS:
                self.memo[self.number(_PUTS[code])] = self.stack[-1]
            elif code in _GETS:
                self.stack.append(self.memo[self.number(_GETS[code])])
            elif code in _SHORT_TUPLES:
                count = _SHORT_TUPLES[code]
                self.stack.append(tuple(self.pop() for _ in range(count))[::-1])
            elif code in _OTHERS:
                _OTHERS[code](self)
            else:
                raise UnreadableFileError(
                    f"its pickle has the instruction {code!r}, which tensors don't need"
                )
        return self.pop()

    def take(self, size: int) -> memoryview:
        part = self.data[self.position : self.position + size]
        if len(part) != size:
            raise UnreadableFileError("its pickle is cut off")
        self.position += size
        return part

    def number(self, code: str) -> Any:
        return struct.unpack(code, self.take(struct.calcsize(code)))[0]

    def text(self, size: int) -> str | memoryview:
        part = self.take(size)
        return part if size >= _LONG_TEXT else str(part, "utf-8")

    def line(self) -> str:
        line = bytearray()
        while (character := bytes(self.take(1))) != b"\n":
            line += character
        return line.decode()

    def pop(self) -> Any:
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.marked.pop()
        return items

    def mark(self) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def make_tuple(self) -> None:
        items = self.pop_to_mark()
        self.stack.append(tuple(items))

    def memoize(self) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def long_integer(self) -> None:
        self.stack.append(int.from_bytes(self.take(self.number("<B")), "little", signed=True))

    def set_items(self, items: list[Any]) -> None:
        target: dict[Any, Any] = self.stack[-1]
        if not isinstance(target, dict):
            raise TypeError
        keys = [as_text(key) for key in items[0::2]]
        target.update(zip(keys, items[1::2], strict=True))

    def set_item(self) -> None:
        value, key = self.pop(), self.pop()
        self.set_items([key, value])

    def extend(self, items: list[Any]) -> None:
        target: list[Any] = self.stack[-1]
        if not isinstance(target, list):
            raise TypeError
        target.extend(items)

    def named(self) -> None:
        self.push_global(self.line(), self.line())

    def stack_named(self) -> None:
        name, module = self.pop(), self.pop()
        self.push_global(module, name)

    def push_global(self, module: str, name: str) -> None:
        full = f"{as_text(module)}.{as_text(name)}"
        if full not in self.functions:
            raise UnreadableFileError(
                f"its pickle names {full}, which is no part of a file of tensors; "
                "it is not loaded, since it could run any program"
            )
        self.stack.append(Global(full, self.functions[full]))

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, Global):
            raise TypeError
        self.stack.append(function.call(*arguments))

    def build(self) -> None:
        state = self.pop()
        target = self.stack[-1]
        if isinstance(target, Buildable):
            target.build(state)
        elif not isinstance(target, dict):  # attributes of a dictionary are no part of it
            raise TypeError

    def persistent_object(self) -> None:
        if self.persistent is None:
            raise TypeError
        self.stack.append(self.persistent(self.pop()))


_CONSTANTS: dict[bytes, Any] = {b"N": None, b"\x88": True, b"\x89": False, b")": ()}
_NUMBERS = {b"K": "<B", b"M": "<H", b"J": "<i", b"G": ">d"}
_BYTES = {b"C": "<B", b"B": "<I", b"\x8e": "<Q"}
_TEXTS = {b"\x8c": "<B", b"X": "<I", b"\x8d": "<Q"}
_PUTS = {b"q": "<B", b"r": "<I"}
_GETS = {b"h": "<B", b"j": "<I"}
_SHORT_TUPLES = {b"\x85": 1, b"\x86": 2, b"\x87": 3}
_OTHERS: dict[bytes, Callable[[_Machine], Any]] = {
    b"\x80": lambda machine: machine.take(1),  # the protocol's number
    b"\x95": lambda machine: machine.take(8),  # the length of a frame
    b"(": _Machine.mark,
    b"\x94": _Machine.memoize,
    b"\x8a": _Machine.long_integer,
    b"}": lambda machine: machine.stack.append({}),
    b"]": lambda machine: machine.stack.append([]),
    b"t": _Machine.make_tuple,
    b"s": _Machine.set_item,
    b"u": lambda machine: machine.set_items(machine.pop_to_mark()),
    b"a": lambda machine: machine.extend([machine.pop()]),
    b"e": lambda machine: machine.extend(machine.pop_to_mark()),
    b"c": _Machine.named,
    b"\x93": _Machine.stack_named,
    b"R": _Machine.reduce,
    b"b": _Machine.build,
    b"Q": _Machine.persistent_object,
}
