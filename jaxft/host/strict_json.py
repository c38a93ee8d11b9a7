"""Strict JSON (RFC 8259): what Python's parser accepts beyond the standard is an error, or is written as null."""

import json
import math
from typing import Any, NoReturn


def parse(text: str | bytes) -> Any:
    """The value of a document. Raises ValueError with the reason for anything that is not valid JSON.

    Objects with a repeated key, NaN, Infinity, numbers beyond float64, bytes that are not UTF-8, and very deep nesting
    are errors, too.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8")
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_refuse, parse_float=_finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def dumps(value: Any, **options: Any) -> str:
    """The text of a value; NaN and the infinities become null. `options` are those of json.dumps."""
    try:
        return json.dumps(value, allow_nan=False, **options)
    except ValueError:  # NaN or infinity, which is rare: only then copy the value
        return json.dumps(_finite_only(value), allow_nan=False, **options)


def _finite_only(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite_only(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite_only(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice[:60]!r} is repeated in one object")
    return made


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not valid JSON: use null or a number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        _refuse(text)
    return number
