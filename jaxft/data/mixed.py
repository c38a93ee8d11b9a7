"""Columns whose values have different types, which Arrow cannot store, or that are wrong in another way.

Each value is stored as a JSON text. The metadata of the column say what is wrong: it is an error only if a task reads
the column.
"""

import json
from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from jaxft.data.example import Row

NOTE = b"jaxft.mixed"


def noted(schema: pa.Schema) -> dict[str, str]:
    """The problem of each column that is stored as JSON."""
    return {field.name: field.metadata[NOTE].decode() for field in schema if NOTE in (field.metadata or {})}


def as_json(table: pa.Table, problems: dict[str, str]) -> pa.Table:
    """The table with the columns in `problems` stored as JSON. Raises TypeError for values that JSON cannot express."""
    done = noted(table.schema)
    for name, problem in problems.items():
        if name in table.column_names and name not in done:
            table = _replaced(table, name, texts(table[name].to_pylist()), problem)
    return table


def with_empty(table: pa.Table, name: str, problem: str) -> pa.Table:
    """The table with a further column that has no values."""
    return _replaced(table.append_column(name, pa.nulls(len(table))), name, texts([None] * len(table)), problem)


def texts(values: list[Any]) -> pa.Array:
    """The values as JSON texts."""
    return pa.array([None if value is None else json.dumps(value) for value in values], pa.string())


def _replaced(table: pa.Table, name: str, column: pa.Array, problem: str) -> pa.Table:
    field = pa.field(name, pa.string(), metadata={NOTE: problem.encode("utf-8", "replace")})
    return table.set_column(table.column_names.index(name), field, column)


def table_with(columns: dict[str, pa.Array], problems: dict[str, str]) -> pa.Table:
    """A table of columns; those in `problems` are JSON texts."""
    table = pa.table(columns)
    for name, problem in problems.items():
        table = _replaced(table, name, columns[name], problem)
    return table


def plain(rows: list[Row], names: Iterable[str]) -> list[Row]:
    """The rows with the original values of these columns."""
    return [row | {name: None if row[name] is None else json.loads(row[name]) for name in names} for row in rows]
