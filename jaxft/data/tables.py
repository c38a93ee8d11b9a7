"""Arrow tables from Python rows, and from several files."""

import bisect
import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from jaxft.data import mixed
from jaxft.data.example import Row
from jaxft.problems import UserError, clipped, raise_problems, truncated_repr

PIECE = 10_000  # rows that are Python objects at the same time
LARGEST = 2**31 - 1  # bytes of the texts in one Arrow array, whose offsets are int32


def table_of(rows: Iterator[Row], path: str, types: dict[str, pa.DataType] | None = None) -> pa.Table:
    """A table of the rows; missing keys become None.

    With `types=None`, types are inferred, and columns of values of different types become JSON (data/mixed.py).
    """
    pieces = []
    first = 1
    while piece := list(itertools.islice(rows, PIECE)):
        names = list(types or dict.fromkeys(key for row in piece for key in row))
        if bad := [name for name in names if not re.fullmatch("[^\\0\ud800-\udfff]*", name)]:
            raise UserError(
                f"{path}: the column name {truncated_repr(bad[0])} holds characters that are not text: rename it"
            )
        columns: dict[str, pa.Array] = {}
        problems: dict[str, str] = {}
        for name in names:
            values = [row.get(name) for row in piece]
            try:
                columns[name] = _column(values, name, path, types, first)
            except UserError as error:
                if types is not None:
                    raise
                columns[name], problems[name] = mixed.texts(values), error.problems[0]
        pieces.append(mixed.table_with(columns, problems))
        first += len(piece)
    return _concat(pieces, [f"{path}, rows {i * PIECE + 1} to {i * PIECE + len(t)}" for i, t in enumerate(pieces)])


def concatenate(tables: list[pa.Table], paths: list[str]) -> pa.Table:
    """The rows of all files, in order, with the columns of all.

    A column that a file lacks is an error only for a task that reads it (data/mixed.py). Raises UserError if class
    names differ.
    """
    if len(tables) == 1:
        return tables[0]
    known = noted_class_names(tables[0])
    both = [set(tables[0].column_names) & set(table.column_names) for table in tables]
    classes = map(noted_class_names, tables)
    others = [
        path
        for path, names, own in zip(paths, both, classes, strict=True)
        if any(own.get(name) != known.get(name) for name in names)
    ]
    raise_problems(f"{path} has other class names than {paths[0]}: name files with the same ones" for path in others)
    first = {name: path for table, path in list(zip(tables, paths, strict=True))[::-1] for name in table.column_names}
    names = list(dict.fromkeys(name for table in tables for name in table.column_names))
    whole = []
    for table, path in zip(tables, paths, strict=True):
        for name in names:
            if name not in table.column_names:
                problem = f"{path} has no column {name!r}, which {first[name]} has: name files with the same columns"
                table = mixed.with_empty(table, name, problem)
        whole.append(table.select(names))
    return _concat(whole, paths)


def class_names(features: Mapping[str, Any]) -> dict[str, list[str]]:
    """Class names by column, from the `features` of a data set of `datasets`, for columns that hold class numbers."""
    kinds = {key: getattr(kind, "feature", kind) for key, kind in features.items()}  # the type of a list's items
    return {key: kind.names for key, kind in kinds.items() if hasattr(kind, "names")}


def noted_class_names(table: pa.Table) -> dict[str, list[str]]:
    """The class names in the metadata of files written by `datasets`.

    Raises ValueError, TypeError or KeyError for damaged metadata.
    """
    if b"huggingface" not in (table.schema.metadata or {}):
        return {}
    from datasets import Features  # here, because importing it takes 0.5 s and 30 MiB

    return class_names(Features.from_arrow_schema(table.schema))


def python_rows(table: pa.Table, name: str, first: int) -> list[Row]:
    """The rows of a table as Python values; `first` is the number of its first row, from 1.

    Raises UserError for values that Python cannot express: dates outside the years 1 to 9999, times of an unknown zone,
    durations beyond a million years.
    """
    try:
        return table.to_pylist()
    except (pa.ArrowException, OverflowError, ValueError, ImportError):
        problems = [_value_problem(table[column], column, name, first) for column in table.column_names]
    raise UserError([problem for problem in problems if problem is not None])


def _value_problem(values: pa.ChunkedArray, column: str, name: str, first: int) -> str | None:
    """The problem of the first value of a column that Python cannot express; None if there is none."""
    for number, value in enumerate(values, first):
        try:
            value.as_py()
        except (pa.ArrowException, OverflowError, ValueError, ImportError) as error:
            return (
                f"{name}, row {number}: column {column!r} holds a {values.type} that Python cannot express ({error}): "
                "write it as text, or remove the column"
            )
    return None


def _concat(tables: list[pa.Table], names: list[str]) -> pa.Table:
    """All rows; `names` are the origins of the tables. Columns whose types differ become JSON."""
    if not tables:
        return pa.table({})
    problems = _misfits(tables, names)
    try:
        tables = [mixed.as_json(table, problems) for table in tables]
    except TypeError:
        raise UserError(problems.values()) from None
    return pa.concat_tables(tables, promote_options="permissive")


def _misfits(tables: list[pa.Table], names: list[str]) -> dict[str, str]:
    """The problem of each column that has different types in the tables."""
    problems: dict[str, str] = {}
    schemas: dict[str, pa.Schema] = {}
    for table, name in zip(tables, names, strict=True):
        problems = mixed.noted(table.schema) | problems
        for field in table.schema:
            both = [schemas.setdefault(field.name, pa.schema([field])), pa.schema([field])]
            try:
                schemas[field.name] = pa.unify_schemas(both, promote_options="permissive")
            except pa.ArrowException as error:
                fault = f"{name}: column {field.name!r} has another type than before ({error})"
                problems.setdefault(field.name, fault)
    return problems


def _column(values: list[Any], name: str, path: str, types: dict[str, pa.DataType] | None, first: int) -> pa.Array:
    kind = types and types[name]
    if (wrong := _wrong(values, kind)) is None:
        return _array(values, kind)
    # Binary search for the first row with which the values no longer have one type.
    row = bisect.bisect_left(
        range(1, len(values) + 1), True, key=lambda count: _wrong(values[:count], kind) is not None
    )
    wrong = _wrong(values[: row + 1], kind) or wrong
    if isinstance(wrong, UnicodeEncodeError):
        fix = "half of a surrogate pair: retype the character"
        raise UserError(f"{path}, row {first + row}: column {name!r} holds {fix}")
    simple = all(isinstance(value, str | int | float | None) for value in values[: row + 1])
    fix = "write all values as text, or all as numbers" if simple else "write all values in one way"
    raise UserError(
        f"{path}, row {first + row}: {truncated_repr(values[row])} in column {name!r} has another type than the "
        f"values before it ({clipped(str(wrong).rstrip('.'), 200)}): {fix}"
    )


def _array(values: list[Any], kind: pa.DataType | None) -> pa.Array:
    """The same as `pa.array`, which imports pandas (0.3 s, 40 MiB); columns of text are built without it."""
    kinds = set(map(type, values))
    if str not in kinds or not kinds <= {str, type(None)} or kind not in (None, pa.string()):
        return pa.array(values, type=kind)
    texts = [(value or "").encode() for value in values]
    ends = np.cumsum([0, *map(len, texts)])
    if ends[-1] > LARGEST:
        return pa.array(values, type=kind)  # makes several arrays
    known = np.packbits([value is not None for value in values], bitorder="little")
    buffers = map(pa.py_buffer, (known, ends.astype(np.int32), b"".join(texts)))
    return pa.Array.from_buffers(pa.string(), len(values), list(buffers))


def _wrong(values: list[Any], kind: pa.DataType | None) -> Exception | None:
    """Why the values cannot be one column; None if they can."""
    try:
        made = _array(values, kind)
        if pa.types.is_floating(made.type) and any(isinstance(value, bool) for value in values):
            raise ValueError("a truth value among numbers")  # it would become 0 or 1
    except (pa.ArrowException, OverflowError, ValueError, TypeError) as error:
        return error
    return None
