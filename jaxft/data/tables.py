"""Build Arrow tables from python rows, and join those of several files."""

import itertools
from collections.abc import Iterator

import datasets
import pyarrow as pa

from jaxft.problems import UserError

PIECE = 10_000  # rows that are python objects at a time


def table_of(rows: Iterator[dict], path: str, types: dict[str, pa.DataType] | None = None) -> datasets.Dataset:
    """A table of the rows; a key that a row lacks is None there. `types` None: by the values."""
    pieces = []
    first = 1
    while piece := list(itertools.islice(rows, PIECE)):
        names = list(types or dict.fromkeys(key for row in piece for key in row))
        columns = {name: _column([row.get(name) for row in piece], name, path, types, first) for name in names}
        pieces.append(pa.table(columns))
        first += len(piece)
    return wrap(_concat(pieces, path) if pieces else pa.table({}))


def join(tables: list[datasets.Dataset], paths: list[str]) -> datasets.Dataset:
    """The rows of all files in order. Raises UserError unless all have the same columns and class names."""
    if len(tables) == 1:
        return tables[0]
    problems = []
    for table, path in zip(tables, paths, strict=True):
        if set(table.column_names) != set(tables[0].column_names):
            problems.append(f"{path} has the columns {', '.join(table.column_names)}")
        elif _classes(table) != _classes(tables[0]):
            problems.append(f"{path} has other class names")
    if problems:
        known = ", ".join(tables[0].column_names)
        raise UserError([f"{problem}, {paths[0]} has {known}: name files of one kind" for problem in problems])
    names = tables[0].column_names
    return wrap(_concat([table.data.table.select(names) for table in tables], " and ".join(paths[:2])))


def wrap(table: pa.Table) -> datasets.Dataset:
    # A fingerprint of its own, because the library would otherwise hash the whole table.
    return datasets.Dataset(datasets.table.InMemoryTable(table), fingerprint="none")


def _classes(table: datasets.Dataset) -> dict[str, list[str]]:
    return {key: kind.names for key, kind in table.features.items() if isinstance(kind, datasets.ClassLabel)}


def _concat(tables: list[pa.Table], path: str) -> pa.Table:
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise UserError(f"{path}: rows disagree about the kind of a column: {error}") from None


def _column(values: list, name: str, path: str, types, first: int) -> pa.Array:
    try:
        return pa.array(values, type=types and types[name])
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError, ValueError) as error:
        raise UserError(
            f"{path}, rows {first} to {first + len(values) - 1}: the values of column {name!r} are not of one kind "
            f"({str(error).rstrip('.')}): write all of them as text, or all as numbers"
        ) from None
