"""Reads one file of any supported format into a table, without changing a value."""

import itertools
import logging
import os
import zlib
from collections.abc import Callable
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet

from jaxft.data import conll, encodings
from jaxft.data.annotations.brat import standoff
from jaxft.data.encodings import marked_encoding
from jaxft.data.excel import workbook
from jaxft.data.gzipped import open_bytes, open_text
from jaxft.data.json_files import json_document, json_lines
from jaxft.data.reading import Reading
from jaxft.data.separated import comma_separated, tab_separated
from jaxft.data.tables import noted_class_names, table_of
from jaxft.problems import UserError, listed

log = logging.getLogger("jaxft")

DEFAULT = Reading()
BINARY, JSON = (".parquet", ".arrow", ".xlsx"), (".json", ".jsonl")


def read_file(
    path: str,
    how: Reading = DEFAULT,
    columns: tuple[str, ...] = (),
    documents: bool = False,
    encoding: str | None = None,
) -> pa.Table:
    """The rows of a file. With `columns` it is a file of sentences (data/conll.py), whatever its suffix.

    With `documents`, the rows of a .txt file are documents, separated by blank lines, instead of lines. The log says
    which `encoding` a text has, if it is not the one given, or UTF-8 (data/encodings.py).

    Raises UserError with the file and the row if it is malformed or has no rows.
    """
    try:
        kind = suffix(path)
        how = replace(how, encoding=_encoding(path, kind, encoding), named_encoding=encoding)
        try:
            table = _table(path, kind, how, columns, documents)
        except UnicodeDecodeError as error:
            # JSON is UTF-8 (RFC 8259, section 8.1).
            if encoding is not None or kind in JSON or how.encoding != encodings.DEFAULT:
                raise
            how = replace(how, encoding=encodings.guessed_encoding(path, error))
            table = _table(path, kind, how, columns, documents)
    except UnicodeError as error:
        name = "UTF-8" if how.encoding == encodings.DEFAULT else how.encoding.upper()
        place = encodings.bad_line(path) if name == "UTF-8" else ""
        reason = error.reason if isinstance(error, UnicodeDecodeError) else error
        raise UserError(
            f"{path}{place} is not {name} ({reason}): convert the file, or set config.data.encoding"
        ) from None
    except (EOFError, zlib.error) as error:
        raise UserError(f"{path} is incomplete ({error}): copy it again") from None
    except (pa.ArrowException, OSError) as error:  # gzip and Parquet raise OSError for damaged files
        raise UserError(f"{path} cannot be read: {str(error).strip()}") from None
    if len(table) == 0:
        raise UserError(f"{path} has no rows")
    return table


def _encoding(path: str, kind: str, named: str | None) -> str:
    if kind in BINARY:
        return encodings.DEFAULT
    return encodings.without_mark(path, named) if named else marked_encoding(path)


def _table(path: str, kind: str, how: Reading, columns: tuple[str, ...], documents: bool) -> pa.Table:
    if columns:
        return _columns(path, columns, how)
    return _documents(path, how) if documents else READERS[kind](path, how)


def is_text(path: str) -> bool:
    """Whether the beginning of a file is UTF-8 without NUL characters."""
    with open(path, "rb") as file:
        return b"\0" not in (begin := file.read(4096)) and "\ufffd" not in begin[:4000].decode("utf-8", "replace")[:-3]


def suffix(path: str) -> str:
    """The suffix of a file in lower case, without .gz."""
    stem = path[:-3] if path.lower().endswith(".gz") else path
    return os.path.splitext(stem)[1].lower()


def _lines(path: str, how: Reading) -> pa.Table:
    with open_text(path, how.encoding) as file:
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


def _documents(path: str, how: Reading) -> pa.Table:
    with open_text(path, how.encoding) as file:
        groups = itertools.groupby((line.rstrip("\r\n") for line in file), lambda line: line.strip() != "")
        rows = ({"text": "\n".join(lines)} for has_text, lines in groups if has_text)
        return table_of(rows, path, {"text": pa.string()})


def _columns(path: str, names: tuple[str, ...], how: Reading) -> pa.Table:
    kinds = dict.fromkeys(names or (conll.WORD, conll.TAG), pa.list_(pa.string()))
    with open_text(path, how.encoding) as file:
        return table_of(conll.sentences(path, file, names), path, kinds)


def _unnamed_columns(path: str, how: Reading) -> pa.Table:
    return _columns(path, (), how)


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
    ".csv": comma_separated,
    ".tsv": tab_separated,
    ".xlsx": workbook,
    ".parquet": _parquet,
    ".arrow": _arrow,
    ".txt": _lines,
    ".conll": _unnamed_columns,
    ".iob": _unnamed_columns,
    ".ann": standoff,
}
