"""Slices of an evaluation set: rows with the same value of a column, or of similar length."""

from typing import Any

import numpy as np

from jaxft.data.encoded import Encoded
from jaxft.data.source import Rows
from jaxft.problems import UserError, raise_problems, truncated_repr

LENGTH = "length"  # not a column, but the number of tokens of a row
SHORT = 16  # tokens: shorter rows are one slice; above, every power of 2 ends a slice
MAX_SLICES = 100


def values_of(rows: Rows, column: str) -> list[Any]:
    """The values of a column: stripped strings, numbers, booleans or None.

    Raises UserError for values of other types, and for more than MAX_SLICES different ones.
    """
    values = [_value(row[column]) for row in rows]
    bad = [value for value in values if not isinstance(value, str | int | float | None)]
    raise_problems(f"column {column!r} holds {truncated_repr(value)}, expected a text or a number" for value in bad[:1])
    distinct = len(set(values))
    if distinct > MAX_SLICES:
        raise UserError(
            f"column {column!r} of {rows.name} has {distinct:,} different values, expected at most {MAX_SLICES}: each "
            "of them is a slice of the set"
        )
    return values


def _value(value: Any) -> Any:
    """The value, or None if it is missing, NaN or blank."""
    if isinstance(value, str):
        return value.strip() or None
    return None if value != value else value


def lengths_of(encoded: Encoded, rows: int) -> list[int]:
    """For each source row the tokens of its longest example, rounded up to SHORT or a power of 2; 0 without any."""
    longest = np.zeros(rows, np.int64)
    np.maximum.at(longest, encoded.source, encoded.lengths)
    ends = np.maximum(SHORT, 2 ** np.ceil(np.log2(np.maximum(longest, 1))).astype(int))
    return np.where(longest > 0, ends, 0).tolist()


def length_name(end: int) -> str:
    """The name of a slice of lengths: "17-32 tokens" for 32."""
    return f"{1 if end == SHORT else end // 2 + 1}-{end} tokens"


def slices(values: list[Any], rows: np.ndarray) -> list[tuple[Any, np.ndarray]]:
    """(value, indices into `rows`) for each value that occurs in these source rows: numbers, then strings, then None.

    `values` has one for each source row of the set.
    """
    own = [values[row] for row in rows.tolist()]
    places: dict[Any, list[int]] = {}
    for place, value in enumerate(own):
        places.setdefault(value, []).append(place)
    ordered = sorted(places, key=lambda value: (value is None, isinstance(value, str), 0 if value is None else value))
    return [(value, np.array(places[value])) for value in ordered]
