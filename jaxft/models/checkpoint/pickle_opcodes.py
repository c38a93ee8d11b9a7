"""Evaluates a pickle opcode by opcode: imports nothing, and its time and memory are bounded by the pickle's size.

Python's own unpickler calls whatever functions a pickle names, recurses into nested values, reserves a memo as large as
any index, and hashes keys of any depth. This one only builds values; it hashes strings and integers only, compares
nothing, and calls only functions of the caller.
"""

import io
import pickletools
from collections.abc import Callable
from typing import Any

MOST_OPCODES = 2_000_000  # a tensor takes about 35
PLAIN = frozenset(
    """INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE
    SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8""".split()
)  # the argument is the value
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
PUTS = frozenset("PUT BINPUT LONG_BINPUT".split())
GETS = frozenset("GET BINGET LONG_BINGET".split())
SILENT = frozenset("PROTO FRAME STOP".split())


Find = Callable[[str, str], object]
Load = Callable[[object], object]


class Refused(Exception):
    """The pickle is not a dict of tensors."""


def unpickle(stream: io.BytesIO, find: Find, load: Load) -> Any:
    """The value of the pickle at the stream's position, which moves to the pickle's end.

    `find(module, name)` resolves names, `load(id)` persistent ids; both may raise Refused. Only functions that they
    return are called. Raises Refused for opcodes that a dict of tensors does not need, and for keys other than strings
    and integers; ValueError, TypeError or LookupError for invalid bytes.
    """
    machine = _Machine(find, load)
    for number, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if number >= MOST_OPCODES:
            raise Refused(f"its pickle has more than {MOST_OPCODES:,} opcodes")
        machine.do(opcode.name, argument)
    return machine.stack.pop()


class _Machine:
    """The stack, marks and memo of the pickle protocol (described in the standard library's pickletools.py)."""

    def __init__(self, find: Find, load: Load):
        self.find, self.load = find, load
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def do(self, name: str, argument: Any) -> None:
        """Executes one opcode."""
        stack = self.stack
        if name in PLAIN:
            stack.append(argument)
        elif name in PUTS:
            self.memo[argument] = stack[-1]
        elif name in GETS:
            stack.append(self.memo[argument])
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in TUPLES:
            count = TUPLES[name]
            if len(stack) < count:
                raise IndexError("its stack is empty")
            stack[-count:] = [tuple(stack[-count:])]
        elif name not in SILENT:
            method = getattr(self, f"do_{name.lower()}", None)
            if method is None:
                raise Refused(f"its pickle has the opcode {name}, which a dict of tensors does not need")
            method(argument)

    def marked(self) -> list[Any]:
        """Pops everything above the last mark, and the mark."""
        mark = self.marks.pop()
        values = self.stack[mark:]
        del self.stack[mark:]
        return values

    def do_mark(self, _: object) -> None:
        self.marks.append(len(self.stack))

    def do_pop(self, _: object) -> None:
        self.stack.pop()

    def do_pop_mark(self, _: object) -> None:
        self.marked()

    def do_dup(self, _: object) -> None:
        self.stack.append(self.stack[-1])

    def do_memoize(self, _: object) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def do_empty_list(self, _: object) -> None:
        self.stack.append([])

    def do_empty_dict(self, _: object) -> None:
        self.stack.append({})

    def do_tuple(self, _: object) -> None:
        self.stack.append(tuple(self.marked()))

    def do_list(self, _: object) -> None:
        self.stack.append(self.marked())

    def do_dict(self, _: object) -> None:
        values = self.marked()
        self.stack.append({})
        self._set(values)

    def do_append(self, _: object) -> None:
        self._extend([self.stack.pop()])

    def do_appends(self, _: object) -> None:
        self._extend(self.marked())

    def do_setitem(self, _: object) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def do_setitems(self, _: object) -> None:
        self._set(self.marked())

    def do_global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.stack.append(self.find(module, name))

    def do_stack_global(self, _: object) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise TypeError("a name is not a string")
        self.stack.append(self.find(module, name))

    def do_binpersid(self, _: object) -> None:
        self.stack.append(self.load(self.stack.pop()))

    def do_reduce(self, _: object) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(arguments, tuple):
            raise TypeError("the arguments of a call are not a tuple")
        self.stack.append(function(*arguments))

    def do_build(self, _: object) -> None:
        self.stack.pop()  # the state of an OrderedDict: versions of modules

    def _extend(self, values: list) -> None:
        if not isinstance(self.stack[-1], list):
            raise TypeError("values are appended to something other than a list")
        self.stack[-1].extend(values)

    def _set(self, values: list) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(values) % 2:
            raise TypeError("keys and values are set in something other than a dict")
        for key, value in zip(values[::2], values[1::2], strict=True):
            target[checked_key(key)] = value


def checked_key(key: object) -> str | int:
    """The key. Raises Refused unless it is a string or an integer, whose hashes cost no recursion."""
    if not isinstance(key, str | int):
        raise Refused(f"it has a key of type {type(key).__name__}, where a dict of tensors has strings")
    return key
