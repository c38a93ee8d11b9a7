"""Reads one file of any supported format into a table, without changing a value."""

import contextlib
import csv
import itertools
import logging
import os
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet

from jaxft.data import conll
from jaxft.data.annotations.brat import standoff
from jaxft.data.example import Row
from jaxft.data.gzipped import open_bytes, open_text
from jaxft.data.json_files import json_document, json_lines
from jaxft.data.reading import Reading
from jaxft.data.tables import noted_class_names, table_of
from jaxft.problems import UserError, listed, truncated_repr

log = logging.getLogger("jaxft")

DEFAULT = Reading()
DELIMITERS = ";\t|,"  # searched for in a header with one column


def read_file(path: str, how: Reading = DEFAULT, columns: tuple[str, ...] = (), documents: bool = False) -> pa.Table:
    """The rows of a file. With `columns` it is a file of sentences (data/conll.py), whatever its suffix.

    With `documents`, the rows of a .txt file are documents, separated by blank lines, instead of lines.

    Raises UserError with the file and the row if it is malformed or has no rows.
    """
    try:
        if columns:
            table = _columns(path, columns)
        else:
            table = _documents(path) if documents else READERS[suffix(path)](path, how)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}{_bad_line(path)} is not UTF-8 ({error.reason}): convert the file") from None
    except (EOFError, zlib.error) as error:
        raise UserError(f"{path} is incomplete ({error}): copy it again") from None
    except (pa.ArrowException, OSError) as error:  # gzip and Parquet raise OSError for damaged files
        raise UserError(f"{path} cannot be read: {str(error).strip()}") from None
    if len(table) == 0:
        raise UserError(f"{path} has no rows")
    return table


def _bad_line(path: str) -> str:
    """The place of the first bytes that are not UTF-8."""
    damaged = (OSError, EOFError, zlib.error, UserError)  # the rest of the file may be damaged as well
    with contextlib.suppress(*damaged), open_bytes(path) as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                return f", line {number}, byte {error.start + 1} of the line,"
    return ""


def is_text(path: str) -> bool:
    """Whether the beginning of a file is UTF-8 without NUL characters."""
    with open(path, "rb") as file:
        return b"\0" not in (begin := file.read(4096)) and "\ufffd" not in begin[:4000].decode("utf-8", "replace")[:-3]


def suffix(path: str) -> str:
    """The suffix of a file in lower case, without .gz."""
    stem = path[:-3] if path.lower().endswith(".gz") else path
    return os.path.splitext(stem)[1].lower()


def _comma(path: str, how: Reading) -> pa.Table:
    return _separated(path, how.delimiter or ",", how.quote, how.delimiter is not None)


def _tab(path: str, how: Reading) -> pa.Table:
    return _separated(path, how.delimiter or "\t", how.quote, how.delimiter is not None)


def _separated(path: str, delimiter: str, quote: str, named: bool) -> pa.Table:
    """Cells as text. Python's csv module is used because it never converts a cell.

    A header of one column that contains another common delimiter is refused, unless the delimiter is `named`.
    """
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    quoting: dict[str, Any] = {"quotechar": quote} if quote else {"quoting": csv.QUOTE_NONE}
    with open_text(path) as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True, **quoting)
        try:
            names = next(reader, None)
            if names is None:
                raise UserError(f"{path} is empty: write the names of the columns in the first line")
            other = next((one for one in DELIMITERS if one in names[0]), None) if len(names) == 1 else None
            if other is not None and not named:
                raise UserError(
                    f"{path}: the header is one column, {truncated_repr(names[0])}: the delimiter seems to be "
                    f"{other!r}. Set delimiter={other!r} (config.data.delimiter), or write the file with {delimiter!r}"
                )
            twice = [name for name, count in Counter(names).items() if count > 1]
            if twice:
                raise UserError(f"{path}: the header has {listed(map(repr, twice))} more than once: rename columns")
            return table_of(_cells(path, reader, names), path, dict.fromkeys(names, pa.string()))
        except csv.Error as error:
            raise UserError(
                f"{path}, line {reader.line_num}: {error}. If quotes are ordinary characters in this file, set quote=''"
            ) from None


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


def _lines(path: str, how: Reading) -> pa.Table:
    with open_text(path) as file:
        table = table_of(({"text": line.rstrip("\r\n")} for line in file), path, {"text": pa.string()})
    lines = table.filter(pa.compute.not_equal(table["text"], "")) if len(table) else table
    if len(lines) < len(table):
        log.info(
            "%s: %s empty lines are left out, and each other line is a row; with documents=True, rows are separated by "
            "blank lines",
            path,
            f"{len(table) - len(lines):,}",
        )
    return lines


def _documents(path: str) -> pa.Table:
    with open_text(path) as file:
        groups = itertools.groupby((line.rstrip("\r\n") for line in file), lambda line: line.strip() != "")
        rows = ({"text": "\n".join(lines)} for has_text, lines in groups if has_text)
        return table_of(rows, path, {"text": pa.string()})


def _columns(path: str, names: tuple[str, ...]) -> pa.Table:
    kinds = dict.fromkeys(names or (conll.WORD, conll.TAG), pa.list_(pa.string()))
    with open_text(path) as file:
        return table_of(conll.sentences(path, file, names), path, kinds)


def _unnamed_columns(path: str, how: Reading) -> pa.Table:
    return _columns(path, ())


def _parquet(path: str, how: Reading) -> pa.Table:
    return _checked(pa.parquet.ParquetFile(_buffer(path), page_checksum_verification=True).read(), path)


def _arrow(path: str, how: Reading) -> pa.Table:
    """Either of the formats with this suffix: with a footer, or the stream format that `datasets` writes."""
    buffer = _buffer(path)
    try:
        table = pa.ipc.open_file(buffer).read_all()
    except pa.ArrowInvalid:
        table = pa.ipc.open_stream(buffer).read_all()
    return _checked(table, path)


def _checked(table: pa.Table, path: str) -> pa.Table:
    """The table, after a full validation: these formats do not detect bad offsets and texts that are not UTF-8."""
    table.validate(full=True)
    twice = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
    if twice:
        raise UserError(f"{path} has the column {listed(map(repr, twice))} more than once: rename columns")
    try:
        noted_class_names(table)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: the metadata of its columns are damaged ({error}): write the file again") from None
    return table


def _buffer(path: str) -> pa.Buffer:
    if not path.lower().endswith(".gz"):
        return pa.memory_map(path).read_buffer()
    with open_bytes(path) as file:
        return pa.py_buffer(file.read())


READERS: dict[str, Callable[[str, Reading], pa.Table]] = {
    ".jsonl": json_lines,
    ".json": json_document,
    ".csv": _comma,
    ".tsv": _tab,
    ".parquet": _parquet,
    ".arrow": _arrow,
    ".txt": _lines,
    ".conll": _unnamed_columns,
    ".iob": _unnamed_columns,
    ".ann": standoff,
}
