"""Files of cells, csv and tsv, as tables of text; which character separates the cells is seen in the first rows."""

import csv
import itertools
import logging
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from jaxft.data import mixed
from jaxft.data.example import Row
from jaxft.data.gzipped import open_text
from jaxft.data.reading import Reading
from jaxft.data.tables import table_of
from jaxft.problems import UserError, listed, truncated_repr

log = logging.getLogger("jaxft")

DELIMITERS = ",\t;|"
SAMPLE = 100  # rows in which a delimiter gives as many cells as the header has


def comma_separated(path: str, how: Reading) -> pa.Table:
    """A table of a csv file."""
    return _separated(path, how, ",")


def tab_separated(path: str, how: Reading) -> pa.Table:
    """A table of a tsv file."""
    return _separated(path, how, "\t")


def _separated(path: str, how: Reading, usual: str) -> pa.Table:
    """Cells as text. Python's csv module is used because it never converts a cell.

    A header of one column that contains another common delimiter is refused, unless the delimiter is named.
    """
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    delimiter = how.delimiter or _delimiter(path, how, usual)
    with open_text(path, how.encoding) as file:
        reader = _reader(file, how, delimiter)
        try:
            names = next(filter(None, reader), None)
            if names is None:
                raise UserError(f"{path} is empty: write the names of the columns in the first line")
            other = next((one for one in DELIMITERS if one in names[0]), None) if len(names) == 1 else None
            if other is not None and how.delimiter is None:
                raise UserError(
                    f"{path}: the header is one column, {truncated_repr(names[0])}: the delimiter seems to be "
                    f"{other!r}, but the rows do not have as many cells. Set delimiter={other!r} "
                    f"(config.data.delimiter), or write the file with {delimiter!r}"
                )
            table = table_of(_cells(path, reader, names), path, dict.fromkeys(names, pa.string()))
            return mixed.as_json(table, repeated(names, f"{path}: the header"))
        except csv.Error as error:
            raise UserError(
                f"{path}, line {reader.line_num}: {error}. If quotes are ordinary characters in this file, set quote=''"
            ) from None


def repeated(names: list[str], header: str) -> dict[str, str]:
    """The problem of each name that a header has more than once."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    return {name: f"{header} has {truncated_repr(name)} more than once: rename columns" for name in twice}


def _reader(file: Any, how: Reading, delimiter: str) -> Any:
    quoting: dict[str, Any] = {"quotechar": how.quote} if how.quote else {"quoting": csv.QUOTE_NONE}
    return csv.reader(file, delimiter=delimiter, strict=True, **quoting)


def _delimiter(path: str, how: Reading, usual: str) -> str:
    """The delimiter that gives the first rows as many cells as the header; `usual` if none gives two or more.

    Raises UserError if several do.
    """
    found = [one for one in DELIMITERS if _fits(path, how, one)]
    if len(found) > 1:
        raise UserError(
            f"{path}: {listed(map(repr, found))} may be the delimiter, as the header and the first rows have as many "
            f"cells with each: set config.data.delimiter, such as {usual if usual in found else found[0]!r}"
        )
    if found and found[0] != usual:
        log.info("%s: cells are separated by %r, as the header and the first rows show", path, found[0])
    return found[0] if found else usual


def _fits(path: str, how: Reading, delimiter: str) -> bool:
    """Whether the header has two cells or more, and each of the first rows as many."""
    with open_text(path, how.encoding) as file:
        rows = filter(None, _reader(file, how, delimiter))
        try:
            widths = [len(cells) for cells in itertools.islice(rows, SAMPLE + 1)]
        except csv.Error:
            return False
    return len(widths) > 0 and widths[0] > 1 and len(set(widths)) == 1


def _cells(path: str, reader: Any, names: list[str]) -> Iterator[Row]:
    number = 0
    for cells in reader:
        if not cells:  # an empty line
            continue
        number += 1
        if len(cells) != len(names):
            raise UserError(
                f"{path}, row {number} (line {reader.line_num}): {len(cells)} cells, but the header has {len(names)} "
                f"({listed(names)}). Quote cells that contain the delimiter."
            )
        yield dict(zip(names, cells, strict=True))
