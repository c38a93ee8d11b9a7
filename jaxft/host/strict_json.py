"""JSON as its standard has it (RFC 8259): what Python itself lets pass in silence is an error here, or becomes null."""

import json
import math


def parse(text: str | bytes):
    """The value of a document. Raises ValueError with the reason.

    Beside what is no JSON at all, an object with a key that stands twice, NaN, Infinity, numbers beyond float64,
    bytes that are not UTF-8 and a nesting that no honest file has are refused.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8")
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_refuse, parse_float=_finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def dumps(value, **how) -> str:
    """The text of a value. NaN and the infinities, which JSON does not have, become null; `how` is as of json.dumps."""
    try:
        return json.dumps(value, allow_nan=False, **how)
    except ValueError:  # a number of these, which is seldom: only then is the value copied
        return json.dumps(_finite_only(value), allow_nan=False, **how)


def _finite_only(value):
    if isinstance(value, dict):
        return {key: _finite_only(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite_only(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _object(pairs: list[tuple]) -> dict:
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice[:60]!r} stands twice in one object")
    return made


def _refuse(name: str):
    raise ValueError(f"{name} is not valid JSON: use null or a number")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse(text)
