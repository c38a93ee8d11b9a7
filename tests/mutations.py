"""Changes of files and settings for tests/fuzz.py: of bytes anywhere, and of values in JSON, drawn from a generator."""

import copy
import json
import random

PIECES = [
    b"\0",
    b"\xff",
    b'"',
    b"\n",
    b"\r",
    b",",
    b"{",
    b"[",
    b"]",
    b"NaN",
    b"1e999",
    b"\\ud800",
    b"\xef\xbb\xbf",
    b"-1",
]
ODD = [
    None,
    True,
    False,
    -1,
    0,
    1,
    7,
    1.5,
    1e300,
    -0.0,
    10**12,
    2**31,
    -(2**63),
    10**400,
    "",
    "x",
    "é\u0300",
    "\0",
    "1",
    "x" * 300,
    "x" * 100_000,
    [],
    {},
    [1],
    [[]],
    {"a": 1},
    ["x"] * 3,
    {"0": "a", "2": "b"},
    "../x",
    "/etc/passwd",
]
TEXTS = [
    "",
    "0",
    "-1",
    "1",
    "2",
    "3",
    "1e-3",
    "1e30",
    "nan",
    "inf",
    "-inf",
    "None",
    "True",
    "null",
    "[]",
    "{}",
    "()",
    "(1,)",
    "x" * 300,
    "x" * 100_000,
    "9" * 30,
    "9" * 6000,
    "é",
    "\0",
    "..",
    "/",
    "/etc/passwd",
    "max",
    "min",
    "val/loss",
    "val/nothing",
    "'x'",
    "bfloat16",
    "float16",
    "1.5",
    "0.5",
    "(" * 500,
    "[" * 500,
    "1_000",
    "4294967295",
    "2147483648",
    "{'a': 1}",
    "{[]: 1}",
    "lambda: 1",
]


def of_bytes(data: bytes, rng: random.Random, start: int = 0, stop: int | None = None) -> bytes:
    """One to four changes of `data[start:stop]`: mostly a bit; a piece, a cut, a part that stands twice, a number.

    Half of the bits leave a text in ASCII one: bytes that are no UTF-8 are found at once.
    """
    stop = len(data) if stop is None else stop
    for _ in range(rng.choice([1, 1, 1, 1, 2, 4])):
        at, length = rng.randint(start, max(start, stop - 1)), rng.choice([0, 1, 4, 8, 100, 10**9])
        how = rng.choice([0, 0, 0, 0, 0, 1, 1, 2, 3, 4, 5])
        if how == 0 and at < len(data):
            data = data[:at] + bytes([data[at] ^ 1 << rng.choice([0, 1, 2, 3, 7])]) + data[at + 1 :]
        elif how == 1:
            data = data[:at] + rng.choice(PIECES) + data[at + length :]
        elif how == 2:
            data = data[:at] + rng.randbytes(rng.randint(1, 9)) + data[at + rng.randint(0, 9) :]
        elif how == 3:
            data = data[:at] + data[at : at + 100] * rng.choice([2, 1000]) + data[at + 100 :]
        elif how == 4:
            data = data[:at] if rng.random() < 0.5 else data[at:]
        else:
            data = data[:at] + (0xFFFFFFFF).to_bytes(4, "little") + data[at + 4 :]
        stop = min(stop, len(data))
    return data


def of_json(value, rng: random.Random):
    """One to three values at any depth replaced, removed, renamed, or nested."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        places = _places(value)
        if not places:
            return rng.choice(ODD)
        inside, key = rng.choice(places)
        how = rng.randrange(8)
        if how == 0:
            del inside[key]
        elif how == 1:
            inside[key] = _nested(rng.choice([10, 500, 900]), rng.choice([list, dict]))
        elif how == 2 and isinstance(inside, dict):
            inside[rng.choice(["x", "", "x" * 300, "\0", key + "s"])] = inside.pop(key)
        elif how == 3 and type(inside[key]) in (int, float):
            inside[key] = inside[key] * rng.choice([-1, 2, 0.5, 1000])
        else:
            inside[key] = rng.choice(ODD)
    return value


def of_text(data: bytes, rng: random.Random) -> bytes:
    """A JSON file with other values, or with other bytes."""
    how = rng.random()
    if how < 0.02:
        return rng.choice([b"", b"[]", b"null", b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe", b"1" * 5000])
    if how < 0.3:
        return of_bytes(data, rng)
    return written(of_json(json.loads(data), rng))


def written(value) -> bytes:
    """JSON, of any depth."""
    try:
        return json.dumps(value).encode()
    except RecursionError:
        return b'{"a": ' * 5000 + b"1" + b"}" * 5000


def _places(value) -> list[tuple]:
    """(list or dict, index or key) of every value at any depth."""
    places, left = [], [value]
    while left:
        inside = left.pop()
        keys = inside.keys() if isinstance(inside, dict) else range(len(inside)) if isinstance(inside, list) else ()
        places += [(inside, key) for key in keys]
        left += [inside[key] for key in keys]
    return places


def _nested(depth: int, kind):
    value = 1
    for _ in range(depth):
        value = [value] if kind is list else {"a": value}
    return value
