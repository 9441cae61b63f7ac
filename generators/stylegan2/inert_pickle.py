"""A pickle's plain data, read without importing or calling anything that the pickle names.

Python's own `Unpickler` with a restricted `find_class` is not safe enough for a file from a stranger:
five bytes (a huge memo index) make it allocate gigabytes, a nested tuple as a key overflows the C
stack, and BUILD writes attributes of whatever stands on the stack. This machine knows the opcodes that
Python's pickler emits in protocols 2 to 5, puts a name where a pickle asks for one, and hands calls to
the caller's own makers of plain values. What it builds takes memory in proportion to the file, as long as
a maker refers to its arguments: one value may be an argument any number of times, so that whoever copies
what was made must bound the sum of the copies (`official_network.tensors_of` does).
"""

import pickle
import pickletools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

__all__ = ["LONGEST_TEXT", "Maker", "Name", "SkippedText", "Stateful", "read_pickle"]

Maker = Callable[..., object]
"""Makes a plain value of the arguments of a call in the pickle; raises ValueError on odd ones."""

LONGEST_TEXT = 4096
"""Characters of text that are kept; a longer one (the source of a module) is dropped."""

MOST_BITS = 8192
"""Of a whole number: writing a longer one in decimals takes too long, or raises ValueError."""


class SkippedText:
    """Stands for a text longer than `LONGEST_TEXT`."""


class Stateful(ABC):
    """A made value that takes a state after it was made (the opcode BUILD)."""

    @abstractmethod
    def build(self, state: object) -> None:
        """Take the state, or raise ValueError."""


@dataclass(frozen=True, slots=True, eq=False)
class Name:
    """A name that the pickle asked for, and nothing of what it stands for."""

    text: str


def read_pickle(file: BytesIO, makers: Mapping[str, Maker | None], persistent: Maker | None = None) -> object:
    """Return the value of the pickle that starts at `file`'s position, and leave it at its end.

    Args:
        file: the bytes of the pickle, and perhaps of more after it.
        makers: the names that may be asked for, "module.name"; None for one that may not be called.
        persistent: makes a value of a persistent identity; None refuses every such identity.

    Dictionaries and lists are plain ones; a set comes as a list of its members, a frozen set as a tuple.

    Raises:
        pickle.UnpicklingError: the pickle asks for a name or an operation that is not allowed; says which.
        ValueError, TypeError, IndexError, KeyError: the pickle is damaged.
    """
    return _Machine(file, makers, persistent).run()


def _is_plain_key(key: object) -> bool:
    """Whether hashing the key is safe: anything deeper can take for ever, or overflow the C stack."""
    return type(key) in (str, float, bool, type(None)) or (type(key) is int and abs(key) < 2**31)


def _printable(text: object) -> str:
    plain = str(text) if isinstance(text, str | int) else type(text).__name__
    return plain.encode("unicode_escape").decode()[:200]


class _Machine:
    """The stack machine of the pickle format, reduced to data."""

    def __init__(self, file: BytesIO, makers: Mapping[str, Maker | None], persistent: Maker | None) -> None:
        self.file, self.makers, self.persistent = file, makers, persistent
        self.stack: list[object] = []
        self.marks: list[int] = []
        self.memo: dict[int, object] = {}

    def run(self) -> object:
        while True:
            operation = _OPERATIONS.get(self.file.read(1))
            if operation is None:
                raise ValueError(f"no operation at byte {self.file.tell()}")
            if operation.name == "STOP":
                return self.stack.pop()
            if operation.name not in _STEPS:
                raise pickle.UnpicklingError(self._complaint(operation))
            _STEPS[operation.name](self, self._argument(operation))

    def _argument(self, operation: pickletools.OpcodeInfo) -> Any:
        return None if operation.arg is None else operation.arg.reader(self.file)

    def _complaint(self, operation: pickletools.OpcodeInfo) -> str:
        if operation.name == "INST":
            return f"it asks for {_printable(self._argument(operation)).replace(' ', '.', 1)}"
        if operation.name == "PERSID":
            return f"it asks for the persistent object {_printable(self._argument(operation))}"
        if operation.name.startswith("EXT"):
            return f"it asks for the registered extension {_printable(self._argument(operation))}"
        return f"it holds the operation {operation.name}"

    def ignore(self, _: object) -> None:
        """Protocol numbers and frame lengths say nothing about the data."""

    def push(self, value: object) -> None:
        self.stack.append(value)

    def push_text(self, text: str) -> None:
        self.stack.append(text if len(text) <= LONGEST_TEXT else SkippedText())

    def push_integer(self, value: int) -> None:
        if value.bit_length() > MOST_BITS:
            raise pickle.UnpicklingError(f"it holds a whole number of more than {MOST_BITS} bits")
        self.stack.append(value)

    def take(self, count: int) -> tuple[object, ...]:
        if count > len(self.stack):
            raise ValueError("an operation misses its arguments")
        taken = tuple(self.stack[len(self.stack) - count :])
        del self.stack[len(self.stack) - count :]
        return taken

    def take_marked(self) -> tuple[object, ...]:
        return self.take(max(0, len(self.stack) - self.marks.pop()))

    def mark(self, _: None) -> None:
        self.marks.append(len(self.stack))

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def memoize(self, _: None) -> None:
        self.put(len(self.memo))

    def get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    def extend(self, values: tuple[object, ...]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise ValueError("members are put into something that is no list or set")
        target.extend(values)

    def set_items(self, values: tuple[object, ...]) -> None:
        target = self.stack[-1]
        if type(target) is not dict or len(values) % 2:
            raise ValueError("items are put into something that is no dictionary")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not _is_plain_key(key):
                raise pickle.UnpicklingError(
                    f"a key is of type {type(key).__name__}, not text, None, a float or an int below 2³¹"
                )
            target[key] = value

    def name(self, text: str) -> None:
        if text not in self.makers:
            raise pickle.UnpicklingError(f"it asks for {_printable(text)}")
        self.stack.append(Name(text))

    def name_on_stack(self, _: None) -> None:
        module, name = self.take(2)
        if type(module) is not str or type(name) is not str:
            raise ValueError("a name is not text")
        self.name(f"{module}.{name}")

    def call(self, _: None) -> None:
        called, arguments = self.take(2)
        maker = self.makers.get(called.text) if isinstance(called, Name) else None
        if maker is None:
            what = called.text if isinstance(called, Name) else f"a {type(called).__name__}"
            raise pickle.UnpicklingError(f"it calls {what}")
        if type(arguments) is not tuple:
            raise ValueError("the arguments of a call are no tuple")
        self.stack.append(maker(*arguments))

    def build(self, _: None) -> None:
        (state,) = self.take(1)
        target = self.stack[-1]
        if isinstance(target, Stateful):
            target.build(state)
        elif type(target) is not dict or state not in (None, {}):
            raise pickle.UnpicklingError(f"it sets the state of a {type(target).__name__}")

    def identify(self, _: None) -> None:
        (identity,) = self.take(1)
        if self.persistent is None:
            raise pickle.UnpicklingError(f"it asks for the persistent object {_printable(identity)}")
        if type(identity) is not tuple:
            raise ValueError("a persistent identity is no tuple")
        self.stack.append(self.persistent(*identity))


def _texts(*names: str) -> dict[str, Callable[[_Machine, Any], None]]:
    return dict.fromkeys(names, _Machine.push_text)


def _literals(*names: str) -> dict[str, Callable[[_Machine, Any], None]]:
    return dict.fromkeys(names, _Machine.push)


_OPERATIONS = {operation.code.encode("latin-1"): operation for operation in pickletools.opcodes}
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME"), _Machine.ignore),
    **_texts("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    **_literals("BININT", "BININT1", "BININT2", "BINFLOAT"),
    **dict.fromkeys(("LONG1", "LONG4"), _Machine.push_integer),
    **_literals("SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_SET": lambda machine, _: machine.push([]),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE1": lambda machine, _: machine.push(machine.take(1)),
    "TUPLE2": lambda machine, _: machine.push(machine.take(2)),
    "TUPLE3": lambda machine, _: machine.push(machine.take(3)),
    "TUPLE": lambda machine, _: machine.push(machine.take_marked()),
    "FROZENSET": lambda machine, _: machine.push(machine.take_marked()),
    "APPEND": lambda machine, _: machine.extend(machine.take(1)),
    "APPENDS": lambda machine, _: machine.extend(machine.take_marked()),
    "ADDITEMS": lambda machine, _: machine.extend(machine.take_marked()),
    "SETITEM": lambda machine, _: machine.set_items(machine.take(2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine.take_marked()),
    "MARK": _Machine.mark,
    "MEMOIZE": _Machine.memoize,
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _Machine.put),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _Machine.get),
    "GLOBAL": lambda machine, names: machine.name(names.replace(" ", ".", 1)),
    "STACK_GLOBAL": _Machine.name_on_stack,
    **dict.fromkeys(("REDUCE", "NEWOBJ"), _Machine.call),
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.identify,
}
