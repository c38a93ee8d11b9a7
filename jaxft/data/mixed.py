"""Columns of JSON files whose values are of several kinds, which Arrow has no type for.

They are kept as the JSON that they are, a text each, with what is wrong noted beside the column: it is an error only
where a task reads the column.
"""

import json

import pyarrow as pa

NOTE = b"jaxft.mixed"


def noted(schema: pa.Schema) -> dict[str, str]:
    """What is wrong with each column that is kept as JSON."""
    return {field.name: field.metadata[NOTE].decode() for field in schema if NOTE in (field.metadata or {})}


def as_json(table: pa.Table, problems: dict[str, str]) -> pa.Table:
    """The table with these of its columns as JSON. Raises TypeError for values that JSON has not."""
    done = noted(table.schema)
    for name, problem in problems.items():
        if name in table.column_names and name not in done:
            table = _replaced(table, name, texts(table[name].to_pylist()), problem)
    return table


def texts(values: list) -> pa.Array:
    return pa.array([None if value is None else json.dumps(value) for value in values], pa.string())


def _replaced(table: pa.Table, name: str, column: pa.Array, problem: str) -> pa.Table:
    field = pa.field(name, pa.string(), metadata={NOTE: problem.encode("utf-8", "replace")})
    return table.set_column(table.column_names.index(name), field, column)


def table_with(columns: dict[str, pa.Array], problems: dict[str, str]) -> pa.Table:
    """A table of columns of which those with `problems` are JSON."""
    table = pa.table(columns)
    for name, problem in problems.items():
        table = _replaced(table, name, columns[name], problem)
    return table


def plain(rows: list[dict], names) -> list[dict]:
    """The rows with the values of these columns as they were."""
    return [row | {name: None if row[name] is None else json.loads(row[name]) for name in names} for row in rows]
