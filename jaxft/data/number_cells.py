"""Rows whose numbers are numbers: cells of csv and tsv are texts, and JSON's 3 beside 2.5 has become 3.0."""

import logging
import re
from collections.abc import Callable
from typing import Any

from jaxft.data.example import Row
from jaxft.data.files import suffix
from jaxft.data.row_sequence import Rows
from jaxft.problems import listed

log = logging.getLogger("jaxft")

NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?(e[-+][0-9]+)?")
LARGEST = 2**53  # larger whole numbers are not exact in programs that have float64 only


def with_numbers(rows: Rows, path: str) -> Rows:
    """The rows of the file `path`, with numbers in the columns of csv and tsv that hold nothing else.

    Empty cells of these columns become None. A text is a number only if that number is written in the same way: 007,
    1.50 and +3 stay texts. The log names the columns. In columns of JSON that hold whole numbers and others, the whole
    ones are integers, as they were in the file.
    """
    convert: Callable[[Any], int | float | None] = _whole
    names: list[str] = []
    if suffix(path) in (".csv", ".tsv"):
        names, convert = _columns(rows, _text_kind), number_of_text
        if names:
            log.info("%s: these columns hold numbers, and are written as numbers: %s", path, listed(names))
    elif suffix(path) in (".json", ".jsonl"):
        names = _columns(rows, _number_kind)

    def read(start: int, stop: int) -> list[Row]:
        return [row | {name: convert(row[name]) for name in names} for row in rows[start:stop]]

    return Rows(rows.name, rows.columns, rows.classes, len(rows), read, rows.mixed) if names else rows


def number_of_text(text: str | None) -> int | float | None:
    """The number that a text is; None for an empty cell. Raises ValueError for a text that is not one."""
    if not text:
        return None
    number = int(text) if text.lstrip("-").isdecimal() else float(text)
    if not NUMBER.fullmatch(text) or str(number) != text or abs(number) > LARGEST:
        raise ValueError(text)
    return number


def _columns(rows: Rows, kind: Callable[[Any], str | None]) -> list[str]:
    """The columns in which each value has a kind, and one of them is "needed"."""
    kinds: dict[str, set[str]] = {name: set() for name in rows.columns}
    for row in rows:
        for name in list(kinds):
            if (found := kind(row[name])) is None:
                del kinds[name]
            else:
                kinds[name].add(found)
    return [name for name, found in kinds.items() if "needed" in found]


def _text_kind(value: Any) -> str | None:
    try:
        return "needed" if number_of_text(value) is not None else "empty"
    except (ValueError, TypeError, AttributeError):
        return None


def _number_kind(value: Any) -> str | None:
    """Fractions are "needed": a column of whole numbers alone has been read as integers, or was written as 3.0."""
    if value is None:
        return "empty"
    return None if not isinstance(value, float) else "whole" if value.is_integer() else "needed"


def _whole(value: float | None) -> float | int | None:
    return int(value) if value is not None and value.is_integer() and abs(value) <= LARGEST else value
