"""The meaning of a cell in a label column, for all tasks: a class name, a number, or a missing label.

A label is missing if the value is missing, a text is blank, or the number is -1 or -100, as data sets write, unless a
class has this name. White space around a name is ignored, and so are the decimals of an integer such as 1.0, which
pandas writes if a column of class numbers has gaps. The examples' `notes` count how often a name was read like this.
"""

import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from typing import Any, TypeVar

from jaxft.data.example import Row
from jaxft.problems import RowCheck, UserError, listed, raise_problems, suggest, truncated_repr, with_row_numbers
from jaxft.tasks.source_rows import SourceRows
from jaxft.tasks.template import text_of

log = logging.getLogger("jaxft")

T = TypeVar("T")

UNLABELLED = ("-1", "-100")  # -100 is what PyTorch's losses ignore
CHUNK = 1000  # rows that are Python objects at a time
MANY = 100  # with more classes than this, there must be two examples per class on average
WHOLE = re.compile(r"(-?[0-9]+)\.0*")
STRIPPED = "labels read without the white space around them"
ROUNDED = "labels such as 1.0 read as 1"


def is_missing(value: Any) -> bool:
    """Whether a value is None, NaN, or a blank text."""
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def class_name(value: Any, column: str, known: Collection[str] = ()) -> str | None:
    """The class name of a cell, spelled as in `known` if it is there; None for a missing label.

    Raises UserError for a value that is not a text, a number or a truth value.
    """
    if is_missing(value):
        return None
    name = text_of(value, column)
    if name in known:
        return name
    name = name.strip()
    if name in known:
        return name
    whole = as_whole(name)
    return whole if whole in known else None if whole in UNLABELLED else name


def as_whole(name: str) -> str:
    """1.0 as 1; other names unchanged."""
    return found[1] if (found := WHOLE.fullmatch(name)) else name


def label_notes(value: Any, name: str | None) -> dict[str, int]:
    """For an example's `notes`: in which way a cell was read as the class `name`, if the cell differs from it."""
    text = str(value)
    if name is None or text == name:
        return {}
    return {STRIPPED: 1} if text.strip() == name else {ROUNDED: 1}


def numbering(labels: Iterable[str]) -> dict[str, int]:
    """Class name -> number; also for the name without white space around it, unless that is another class."""
    exact = {name: number for number, name in enumerate(labels)}
    return {name.strip(): number for name, number in exact.items()} | exact


def unknown_labels(
    of: Callable[[Row], Iterable[str | None]], known: Collection[str], what: str = "training label"
) -> RowCheck:
    """A check for names that are not in `known`; `of(row)` gives the names of a row."""

    def say(fault: Hashable) -> str:
        name = str(fault)
        kind, plural = what.split()[-1], what + ("es" if what.endswith("s") else "s")
        return f"{kind} {truncated_repr(name)} is not among the {plural}: {listed(known)}.{suggest(name, known)}"

    return RowCheck(lambda row: [name for name in of(row) if name is not None and name not in known], say)


def class_numbers(
    rows: list[Row], column: str, labels: Iterable[str], what: str = "training label"
) -> list[int | None]:
    """The class number of each row, None for a missing label. Raises UserError for names that are not in `labels`."""
    known = numbering(labels)
    unknown_labels(lambda row: [class_name(row[column], column, known)], known, what)(rows)
    names = [class_name(row[column], column, known) for row in rows]
    return [None if name is None else known[name] for name in names]


def class_counts(rows: SourceRows, column: str, known: Collection[str] = ()) -> Counter[str]:
    """The number of rows of each class; `known` are class names, if some are known.

    Logs how many rows have -1 or -100. Raises UserError if that leaves a single class.
    """

    def texts(some: list[Row]) -> list[str]:
        return [text_of(row[column], column) for row in some if not is_missing(row[column])]

    cells = Counter(read_all(rows.named(), texts))
    names = {cell: class_name(cell, column, known) for cell in cells}
    if all(name in known or _is_integer(as_whole(name)) for name in names.values() if name is not None):
        names = {cell: name if name is None or name in known else as_whole(name) for cell, name in names.items()}
    unlabelled = {cell.strip(): cells[cell] for cell, name in names.items() if name is None}
    log_unlabelled(column, unlabelled)
    counts: Counter[str] = Counter()
    for cell, name in names.items():
        counts.update({} if name is None else {name: cells[cell]})
    if unlabelled and len(counts) == 1 and not counts.keys() <= set(known):
        raise_problems(
            [
                f"column {column!r} holds one class, {truncated_repr(*counts)}, and {listed(unlabelled)}, which "
                "stands for a missing label: if it is a class, name all classes, "
                f"config.task.labels={(*unlabelled, *counts)}"
            ]
        )
    return counts


def log_unlabelled(column: str, counts: Mapping[str, int]) -> None:
    """Logs how many rows have each of the cells that stand for missing labels."""
    for cell, count in counts.items():
        log.info(
            "column %r: %s in %s rows stands for a missing label; to make it a class, name it in config.task.labels",
            column,
            cell,
            f"{count:,}",
        )


def known_labels(rows: SourceRows, column: str, counts: Counter[str], checkpoint: list[str] | None) -> list[str]:
    """Class names by number: the checkpoint's if it has the same names, else the data set's own, else sorted."""
    if column in rows.classes:
        found = rows.classes[column]
    elif all(map(_is_integer, counts)):
        found = sorted(counts, key=lambda value: (int(value), value))
    else:
        found = sorted(counts)
    if checkpoint is not None and {name.strip() for name in checkpoint} == {name.strip() for name in found}:
        return checkpoint
    raise_problems(_no_classes(column, found, counts))
    return found


def _no_classes(column: str, found: list[str], counts: Counter[str]) -> list[str]:
    """Why these are probably not classes."""
    if not found:
        return [f"column {column!r} holds no labels: choose the column that has them"]
    if decimals := [value for value in found if _is_decimal(value)]:
        return [
            f"column {column!r} holds decimals such as {truncated_repr(decimals[0])[1:-1]}: for regression use the "
            "task Regress; for classes, name them in task.labels"
        ]
    if MANY < len(counts) and len(counts) * 2 > counts.total():
        return [
            f"column {column!r} holds {len(counts):,} classes in {counts.total():,} rows, such as "
            f"{truncated_repr(found[0])}: name the column of the labels in config.task.label, or the classes in "
            "config.task.labels"
        ]
    return []


def read_all(rows: SourceRows, read: Callable[[list[Row]], list[T]]) -> list[T]:
    """The results of `read` for all rows, in order. A UserError that it raises gets the row numbers added."""
    found: list[T] = []
    for start in range(0, len(rows), CHUNK):
        try:
            found += read(rows[start : start + CHUNK])
        except UserError as error:
            rest = (row for begin in range(start, len(rows), CHUNK) for row in rows[begin : begin + CHUNK])
            raise with_row_numbers(error, rest, start + 1, rows.name, read) from None
    return found


def number_of(value: Any, column: str, most: float = math.inf, fix: str = "a number") -> float | None:
    """The number in a cell, or None for a missing label.

    Raises UserError for other values, and beyond -most and most; `fix` is what the message expects.
    """
    if is_missing(value):
        return None
    number = finite_number(value)
    if number is None or abs(number) > most:
        raise_problems([f"column {column!r} holds {truncated_repr(value)}, expected {fix}"])
    return number


def numbers_of(rows: list[Row], column: str, most: float = math.inf, fix: str = "a number") -> list[float | None]:
    """`number_of` for many rows; the error lists several problems."""

    def faults(row: Row) -> list[str]:
        try:
            number_of(row[column], column, most, fix)
        except UserError as error:
            return error.problems
        return []

    RowCheck(faults, str)(rows)
    return [number_of(row[column], column, most, fix) for row in rows]


def _is_integer(value: str) -> bool:
    return re.fullmatch("-?[0-9]+", value) is not None


def _is_decimal(value: str) -> bool:
    return finite_number(value) is not None and not _is_integer(value)


def finite_number(value: Any) -> float | None:
    """The finite number that a value is or spells, else None; '1_000' is not a number here."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and "_" not in str(value) else None
