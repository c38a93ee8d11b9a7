"""Class names and their numbers: which there are, in which order, and what is none of them."""

import math
import re

from jaxft.problems import UserError, located, raise_problems, suggest


def known_labels(rows, name: str, values: list[str], checkpoint: list[str] | None) -> list[str]:
    """Class names by number: the data set's own order, or the checkpoint's if it has the same names, else sorted."""
    distinct = set(values)
    if name in rows.classes:
        found = rows.classes[name]
    elif all(map(_is_integer, distinct)):
        found = sorted(distinct, key=lambda value: (int(value), value))
    else:
        found = sorted(distinct)
    if not found:
        raise_problems([f"column {name!r} holds no label at all"])
    if decimals := [value for value in found if _is_decimal(value)]:
        raise_problems(
            [f"column {name!r} holds decimals such as {decimals[0]}: for regression use the task Regress; for classes, "
             "name them in task.labels"]
        )  # fmt: skip
    if checkpoint is not None and set(checkpoint) == set(found):
        return checkpoint
    return found


def checked(rows, read):
    """What `read` gives for all rows; if it finds something wrong, with the numbers of the rows."""
    piece = rows[:]
    try:
        return read(piece)
    except UserError as error:
        raise located(error, piece, 1, rows.name, read) from None


def unknown_labels(names, numbers) -> list[str]:
    """A sentence for each name that has no number; None is no name."""
    strange = sorted({name for name in names if name is not None} - numbers.keys())
    known = ", ".join(numbers)
    return [f"label {name!r} is not among the training labels: {known}.{suggest(name, numbers)}" for name in strange]


def _is_integer(value: str) -> bool:
    return re.fullmatch("-?[0-9]+", value) is not None


def _is_decimal(value: str) -> bool:
    return finite_number(value) is not None and not _is_integer(value)


def finite_number(value) -> float | None:
    """A finite number, or None. Python would also read 'nan', 'infinity' and '1_000', which are names here."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and "_" not in str(value) else None
