"""What a cell of a label column means, for all tasks: a class name, a number, or no label.

No label: a missing value, a text of white space alone, and the numbers -1 and -100, which data sets write there, unless
a class has this name. White space around a name does not count, and neither do the zeros behind the point of a whole
number, which pandas writes where a column of class numbers has gaps. How often a name was read in one of these ways is
in the examples' `notes`.
"""

import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping

from jaxft.problems import Check, UserError, listed, raise_problems, suggest, truncated_repr, with_row_numbers
from jaxft.tasks.template import text_of

log = logging.getLogger("jaxft")

UNLABELLED = ("-1", "-100")  # -100 is what PyTorch's losses ignore
CHUNK = 1000  # rows that are Python objects at a time
MANY = 100  # classes from which on there must be two examples of each, on average
WHOLE = re.compile(r"(-?[0-9]+)\.0*")
STRIPPED = "labels read without the white space around them"
ROUNDED = "labels such as 1.0 read as 1"


def is_missing(value) -> bool:
    """None, not a number, or a text of white space alone."""
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def class_name(value, column: str, known: Collection[str] = ()) -> str | None:
    """The name of a cell's class, or None for no label; a name as it is in `known`, if it is there.

    Raises UserError for what is no text, number or truth value.
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
    """1.0 as 1; other names as they are."""
    return found[1] if (found := WHOLE.fullmatch(name)) else name


def reading(value, name: str | None) -> dict[str, int]:
    """For an example's `notes`: how a cell came to be read as the class `name`."""
    text = str(value)
    if name is None or text == name:
        return {}
    return {STRIPPED: 1} if text.strip() == name else {ROUNDED: 1}


def numbering(labels: Iterable[str]) -> dict[str, int]:
    """The number of every class, by its name and, where that is no other class's, by the name without white space."""
    exact = {name: number for number, name in enumerate(labels)}
    return {name.strip(): number for name, number in exact.items()} | exact


def unknown_labels(
    of: Callable[[dict], Iterable[str | None]], known: Collection[str], what: str = "training label"
) -> Check:
    """Finds names that are not among the `known`; `of(row)` are a row's."""

    def say(name: str) -> str:
        kind, plural = what.split()[-1], what + ("es" if what.endswith("s") else "s")
        return f"{kind} {truncated_repr(name)} is not among the {plural}: {listed(known)}.{suggest(name, known)}"

    return Check(lambda row: [name for name in of(row) if name is not None and name not in known], say)


def class_numbers(
    rows: list[dict], column: str, labels: Iterable[str], what: str = "training label"
) -> list[int | None]:
    """The class of each row by its number, None for no label. Raises UserError for names that are none of `labels`."""
    known = numbering(labels)
    unknown_labels(lambda row: [class_name(row[column], column, known)], known, what)(rows)
    names = [class_name(row[column], column, known) for row in rows]
    return [None if name is None else known[name] for name in names]


def class_counts(rows, column: str, known: Collection[str] = ()) -> Counter[str]:
    """How many rows have each class; `known` are names of classes, where there are some.

    Says in the log how many rows have -1 or -100. Raises UserError where that leaves a single class.
    """

    def texts(some: list[dict]) -> list[str]:
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
                f"stands for no label: if it is a class, name all of them, config.task.labels={(*unlabelled, *counts)}"
            ]
        )
    return counts


def log_unlabelled(column: str, counts: Mapping[str, int]) -> None:
    for cell, count in counts.items():
        log.info(
            "column %r: %s in %s rows stands for no label; to make it a class, name it in config.task.labels",
            column,
            cell,
            f"{count:,}",
        )


def known_labels(rows, column: str, counts: Counter[str], checkpoint: list[str] | None) -> list[str]:
    """Class names by number: the data set's own order, or the checkpoint's if it has the same names, else sorted."""
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
    """Why these cannot be meant as classes."""
    if not found:
        return [f"column {column!r} holds no label at all"]
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


def read_all(rows, read: Callable[[list[dict]], list]) -> list:
    """What `read` gives for all rows; if it finds something wrong, with the numbers of the rows."""
    found = []
    for start in range(0, len(rows), CHUNK):
        try:
            found += read(rows[start : start + CHUNK])
        except UserError as error:
            rest = (row for begin in range(start, len(rows), CHUNK) for row in rows[begin : begin + CHUNK])
            raise with_row_numbers(error, rest, start + 1, rows.name, read) from None
    return found


def number_of(value, column: str, most: float = math.inf, fix: str = "a number") -> float | None:
    """The number in a cell, or None for no label. Raises UserError for what is none, or beyond `most`."""
    if is_missing(value):
        return None
    number = finite_number(value)
    if number is None or abs(number) > most:
        raise_problems([f"column {column!r} holds {truncated_repr(value)}, expected {fix}"])
    return number


def numbers_of(rows: list[dict], column: str, *limit) -> list[float | None]:
    """The same of many rows; the error lists several."""

    def faults(row):
        try:
            number_of(row[column], column, *limit)
        except UserError as error:
            return error.problems
        return []

    Check(faults, str)(rows)
    return [number_of(row[column], column, *limit) for row in rows]


def _is_integer(value: str) -> bool:
    return re.fullmatch("-?[0-9]+", value) is not None


def _is_decimal(value: str) -> bool:
    return finite_number(value) is not None and not _is_integer(value)


def finite_number(value) -> float | None:
    """A finite number, or None. Python would also read 'nan', 'infinity' and '1_000', which are names here."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and "_" not in str(value) else None
