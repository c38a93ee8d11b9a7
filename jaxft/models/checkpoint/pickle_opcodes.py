"""The value of a pickle, computed opcode by opcode: nothing is imported, and time and memory are bounded by its size.

Python's own unpickler calls what a pickle names, recurses into nested values, reserves a memo as large as an index
says, and hashes keys of any depth. Here values are only put together; none is hashed but texts and whole numbers, none
is compared, and functions are those that the caller hands out.
"""

import io
import pickletools
from collections.abc import Callable

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


class Refused(Exception):
    """The pickle is not that of a dict of tensors."""


def evaluate(stream: io.BytesIO, find: Callable[[str, str], object], load: Callable[[object], object]):
    """The value of the pickle at the stream's position, which is then behind it.

    `find(module, name)` gives what a name stands for, `load(id)` what a persistent id does; both may raise Refused.
    Of what they give only functions are called. Raises Refused for opcodes that a dict of tensors does not need, and
    for keys that are no texts or whole numbers; ValueError, TypeError or LookupError where the bytes make no sense.
    """
    machine = _Machine(find, load)
    for number, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if number >= MOST_OPCODES:
            raise Refused(f"its pickle has more than {MOST_OPCODES:,} opcodes")
        machine.do(opcode.name, argument)
    return machine.stack.pop()


class _Machine:
    """A stack, the places of its marks, and a memo, as the pickle protocol has them (pickletools.py describes it)."""

    def __init__(self, find, load):
        self.find, self.load = find, load
        self.stack, self.marks, self.memo = [], [], {}

    def do(self, name: str, argument) -> None:
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

    def marked(self) -> list:
        """Takes what lies above the last mark off the stack."""
        mark = self.marks.pop()
        values = self.stack[mark:]
        del self.stack[mark:]
        return values

    def do_mark(self, _):
        self.marks.append(len(self.stack))

    def do_pop(self, _):
        self.stack.pop()

    def do_pop_mark(self, _):
        self.marked()

    def do_dup(self, _):
        self.stack.append(self.stack[-1])

    def do_memoize(self, _):
        self.memo[len(self.memo)] = self.stack[-1]

    def do_empty_list(self, _):
        self.stack.append([])

    def do_empty_dict(self, _):
        self.stack.append({})

    def do_tuple(self, _):
        self.stack.append(tuple(self.marked()))

    def do_list(self, _):
        self.stack.append(self.marked())

    def do_dict(self, _):
        values = self.marked()
        self.stack.append({})
        self._set(values)

    def do_append(self, _):
        self._extend([self.stack.pop()])

    def do_appends(self, _):
        self._extend(self.marked())

    def do_setitem(self, _):
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def do_setitems(self, _):
        self._set(self.marked())

    def do_global(self, argument):
        module, _, name = argument.partition(" ")
        self.stack.append(self.find(module, name))

    def do_stack_global(self, _):
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise TypeError("a name is no text")
        self.stack.append(self.find(module, name))

    def do_binpersid(self, _):
        self.stack.append(self.load(self.stack.pop()))

    def do_reduce(self, _):
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(arguments, tuple):
            raise TypeError("the arguments of a call are no tuple")
        self.stack.append(function(*arguments))

    def do_build(self, _):
        self.stack.pop()  # the state of a dict: the versions of its modules

    def _extend(self, values: list) -> None:
        if not isinstance(self.stack[-1], list):
            raise TypeError("values are appended to what is no list")
        self.stack[-1].extend(values)

    def _set(self, values: list) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(values) % 2:
            raise TypeError("keys and values are set in what is no dict")
        for key, value in zip(values[::2], values[1::2], strict=True):
            target[checked_key(key)] = value


def checked_key(key):
    if not isinstance(key, str | int):
        raise Refused(f"it has a key of the kind {type(key).__name__}, where a dict of tensors has texts")
    return key
