"""Parts of an evaluation set: its kept slots by source row, and its rows by what they have in common."""

import numpy as np

from jaxft.problems import UserError, raise_problems, shown

LENGTH = "length"  # the name of what is no column: how many tokens a row has
SHORT = 16  # tokens; up to these all lengths are one part, above them each power of 2 ends one
MOST = 100  # parts


class KeptRows:
    """The kept slots of a set by source row.

    rows    int64 (n,)  number of each source row that has slots, ascending
    """

    def __init__(self, slots: dict[str, np.ndarray], source: np.ndarray):
        """`slots` as evaluation keeps them (tasks/base.py, `collect`), `source` the source row of each example."""
        row = source[slots["index"]]
        self.slots, self.order = slots, np.argsort(row, kind="stable")
        self.rows, self.counts = np.unique(row, return_counts=True)
        self.begins = np.cumsum(self.counts) - self.counts

    def take(self, places: np.ndarray) -> dict[str, np.ndarray]:
        """The slots of the rows at `places` in `rows`, in this order; of a row that comes twice, twice.

        `index` numbers them so that examples of different places differ, even of the same row.
        """
        counts = self.counts[places]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        slots = self.order[np.repeat(self.begins[places], counts) + within]
        taken = {name: values[slots] for name, values in self.slots.items()}
        return taken | {"index": taken["index"] + np.repeat(np.arange(len(places), dtype=np.int64) << 32, counts)}


def values_of(rows, column: str) -> list:
    """A column's values by source row: texts, numbers, truth values or None.

    Raises UserError for other values, and where there are more than MOST different ones.
    """
    values = [None if (value := row[column]) != value else value for row in rows]  # what is no number is no value
    bad = [value for value in values if not isinstance(value, str | int | float | None)]
    raise_problems(f"column {column!r} holds {shown(value)}, expected a text or a number" for value in bad[:1])
    distinct = len(set(values))
    if distinct > MOST:
        raise UserError(
            f"column {column!r} of {rows.name} has {distinct:,} different values, expected at most {MOST}: each of "
            "them is a part of the set"
        )
    return values


def lengths_of(encoded) -> list[int]:
    """By source row how many tokens its longest example has, rounded up to SHORT or a power of 2; 0 without any."""
    longest = np.zeros(1 + encoded.source.max(), np.int64)
    np.maximum.at(longest, encoded.source, encoded.lengths)
    ends = np.maximum(SHORT, 2 ** np.ceil(np.log2(np.maximum(longest, 1))).astype(int))
    return np.where(longest > 0, ends, 0).tolist()


def length_name(end: int) -> str:
    """17-32 tokens, for 32."""
    return f"{1 if end == SHORT else end // 2 + 1}-{end} tokens"


def parts(values: list, kept: KeptRows) -> list[tuple[object, np.ndarray]]:
    """(value, places in `kept.rows`) of each value that a row with slots has: numbers before texts, None last."""
    own = [values[row] for row in kept.rows.tolist()]
    places: dict[object, list[int]] = {}
    for place, value in enumerate(own):
        places.setdefault(value, []).append(place)
    ordered = sorted(places, key=lambda value: (value is None, isinstance(value, str), 0 if value is None else value))
    return [(value, np.array(places[value])) for value in ordered]
