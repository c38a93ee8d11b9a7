"""Label columns of multi-label tasks: lists of names, joined names, or multi-hot vectors.

A multi-hot vector has 0 or 1, False or True, for each label. It may also be spread over columns, one per label.
"""

import logging
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from jaxft.data.example import Row
from jaxft.problems import raise_problems, truncated_repr
from jaxft.tasks.labels import (
    UNLABELLED,
    as_whole,
    class_name,
    is_missing,
    known_labels,
    numbering,
    read_all,
    unknown_labels,
)
from jaxft.tasks.list_cells import list_of
from jaxft.tasks.source_rows import SourceRows
from jaxft.tasks.template import text_of

log = logging.getLogger("jaxft")

# As Python, JSON and Excel spell them.
HOT = {"0": 0.0, "False": 0.0, "false": 0.0, "FALSE": 0.0, "1": 1.0, "True": 1.0, "true": 1.0, "TRUE": 1.0}
EMPTY = "texts to which no label applies"


def items_of(value: Any, column: str, separator: str) -> list[Any] | None:
    """The items of a cell, unchanged; None for a missing label, [] if no label applies."""
    items = list_of(value)
    if items is None and isinstance(value, str):
        items = [item for item in value.split(separator) if item.strip()] or None
    elif items is None and not is_missing(value) and class_name(value, column) is not None:
        raise_problems([f"column {column!r} holds {truncated_repr(value)}, expected a list of names, or a text"])
    for item in items or ():
        if not is_missing(item):
            text_of(item, column)
    return None if items is None or _unlabelled(items) else items


def _unlabelled(items: list[Any]) -> bool:
    """Whether there are items, but all of them stand for missing labels."""
    return bool(items) and all(is_missing(item) or as_whole(str(item).strip()) in UNLABELLED for item in items)


def names_of(items: list[Any], column: str, known: Collection[str]) -> list[str]:
    """The label names of a cell's items, without duplicates."""
    names = [class_name(item, column, known) for item in items]
    return list(dict.fromkeys(name for name in names if name is not None))


def may_be_hot(items: list[Any]) -> bool:
    """Whether a list can be a multi-hot vector: two or more numbers 0 or 1, or truth values."""
    return len(items) > 1 and all(not isinstance(item, str) and item in (0, 1) for item in items)


def must_be_hot(items: list[Any]) -> bool:
    """Whether a list can only be a multi-hot vector: as class numbers it would have duplicates, truth values or "
    "decimals."""
    return may_be_hot(items) and (len(items) > 2 or items[0] == items[1] or not all(type(i) is int for i in items))


def column_targets(rows: list[Row], columns: tuple[str, ...]) -> list[np.ndarray | None]:
    """For each row float32 (1, labels) from 0 or 1 in the columns; None if one of them has no label."""
    cells = [[_hot_cell(row[column], column) for column in columns] for row in rows]
    return [None if None in some else np.array([some], np.float32) for some in cells]


def _hot_cell(value: Any, column: str) -> float | None:
    text = "" if is_missing(value) else as_whole(str(value).strip())
    if not text or text in UNLABELLED:
        return None
    if text not in HOT:
        raise_problems(
            [f"column {column!r} holds {truncated_repr(value)}, expected 0 or 1: it is one of several in task.label"]
        )
    return HOT[text]


def set_targets(
    rows: list[Row], column: str, separator: str, multi_hot: bool | None, labels: tuple[str, ...]
) -> list[np.ndarray | None]:
    """For each row float32 (1, labels), None for a missing label. Raises UserError for names that are not in `labels`.

    With `multi_hot=None`, a cell is a multi-hot vector if it has as many items as there are labels.
    """
    known = numbering(labels)

    def is_hot(items: list[Any]) -> bool:
        return multi_hot if multi_hot is not None else len(items) == len(labels) and may_be_hot(items)

    def names(row: Row) -> list[str]:
        items = items_of(row[column], column, separator)
        return [] if items is None or is_hot(items) else names_of(items, column, known)

    def target(row: Row) -> np.ndarray | None:
        items = items_of(row[column], column, separator)
        if items is not None and is_hot(items):
            return _hot_target(items, column, labels)[None]
        found = np.zeros((1, len(labels)), np.float32)
        found[0, [known[name] for name in names(row)]] = 1.0
        return None if items is None else found

    unknown_labels(names, known)(rows)
    return [target(row) for row in rows]


def _hot_target(items: list[Any], column: str, labels: Sequence[object]) -> np.ndarray:
    """float32 (labels,) of a multi-hot vector. Raises UserError if it does not have a 0 or 1 for each label."""
    if len(items) != len(labels) or any(isinstance(item, str) or item not in (0, 1) for item in items):
        raise_problems(
            [
                f"column {column!r} holds {truncated_repr(items)}, expected a multi-hot vector of {len(labels)} "
                "numbers, 0 or 1 for each label"
            ]
        )
    return np.array(items, np.float32)


def infer_labels(
    rows: SourceRows,
    column: str,
    separator: str,
    multi_hot: bool | None,
    labels: Sequence[str] | None,
    checkpoint: list[str] | None,
) -> tuple[tuple[str, ...], bool]:
    """(label names by number, whether cells are multi-hot vectors), from all training rows.

    `multi_hot` and `labels` are the user's; only those that are None are inferred. `checkpoint` are the model's labels.
    """
    cells = read_all(rows.named(), lambda some: [items_of(row[column], column, separator) for row in some])
    sets = [items for items in cells if items is not None]
    if multi_hot is None:
        multi_hot = _are_hot(sets, column)
    if labels is not None:
        return tuple(labels), multi_hot
    if multi_hot:
        width = len(sets[0]) if sets else 0
        for items in sets:
            _hot_target(items, column, range(width))
        raise_problems([f"column {column!r} holds no labels: choose the column that has them"] if not width else [])
        return tuple(str(number) for number in range(width)), multi_hot
    known = rows.classes.get(column) or checkpoint or ()
    counts = Counter(name for items in sets for name in names_of(items, column, known))
    return tuple(known_labels(rows, column, counts, checkpoint)), multi_hot


def _are_hot(sets: list[list[Any]], column: str) -> bool:
    """Whether the cells of a column are multi-hot vectors. Raises UserError if some must be and others cannot."""
    hot = next(filter(must_be_hot, sets), None)
    widths = {len(items) for items in sets}
    others = [items for items in sets if not may_be_hot(items) or hot is not None and len(items) != len(hot)]
    if hot is not None and others:
        raise_problems(
            [
                f"column {column!r} holds {truncated_repr(hot)}, a multi-hot vector (0 or 1 for each label), and "
                f"{truncated_repr(others[0])}, which is not one of this length: write all cells in one way, or set "
                "config.task.multi_hot"
            ]
        )
    found = hot is not None or (bool(sets) and not others and len(widths) == 1)
    if found:
        sure = "" if hot is not None else "; if they are class numbers, set config.task.multi_hot=False"
        log.info("column %r holds multi-hot vectors of %d labels in %s rows%s", column, *widths, f"{len(sets):,}", sure)
    return found
