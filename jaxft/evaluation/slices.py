"""Parts of an evaluation set: its rows by what they have in common."""

import numpy as np

from jaxft.problems import UserError, raise_problems, truncated_repr

LENGTH = "length"  # the name of what is no column: how many tokens a row has
SHORT = 16  # tokens; up to these all lengths are one part, above them each power of 2 ends one
MOST = 100  # parts


def values_of(rows, column: str) -> list:
    """A column's values by source row: texts, without white space around them, numbers, truth values or None.

    Raises UserError for other values, and where there are more than MOST different ones.
    """
    values = [_value(row[column]) for row in rows]
    bad = [value for value in values if not isinstance(value, str | int | float | None)]
    raise_problems(f"column {column!r} holds {truncated_repr(value)}, expected a text or a number" for value in bad[:1])
    distinct = len(set(values))
    if distinct > MOST:
        raise UserError(
            f"column {column!r} of {rows.name} has {distinct:,} different values, expected at most {MOST}: each of "
            "them is a part of the set"
        )
    return values


def _value(value):
    """The value, or None if it is missing, NaN or blank, as in a column of labels."""
    if isinstance(value, str):
        return value.strip() or None
    return None if value != value else value


def lengths_of(encoded, rows: int) -> list[int]:
    """By source row how many tokens its longest example has, rounded up to SHORT or a power of 2; 0 without any."""
    longest = np.zeros(rows, np.int64)
    np.maximum.at(longest, encoded.source, encoded.lengths)
    ends = np.maximum(SHORT, 2 ** np.ceil(np.log2(np.maximum(longest, 1))).astype(int))
    return np.where(longest > 0, ends, 0).tolist()


def length_name(end: int) -> str:
    """17-32 tokens, for 32."""
    return f"{1 if end == SHORT else end // 2 + 1}-{end} tokens"


def parts(values: list, rows: np.ndarray) -> list[tuple[object, np.ndarray]]:
    """(value, places in `rows`) of each value that one of these rows has: numbers before texts, None last."""
    own = [values[row] for row in rows.tolist()]
    places: dict[object, list[int]] = {}
    for place, value in enumerate(own):
        places.setdefault(value, []).append(place)
    ordered = sorted(places, key=lambda value: (value is None, isinstance(value, str), 0 if value is None else value))
    return [(value, np.array(places[value])) for value in ordered]
