"""Build Arrow tables from python rows, and join those of several files."""

import bisect
import itertools
import re
from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa

from jaxft.data import mixed
from jaxft.problems import UserError, clipped, listed, truncated_repr

PIECE = 10_000  # rows that are python objects at a time
LARGEST = 2**31 - 1  # bytes of the texts in one array of Arrow's, whose offsets are int32


def table_of(rows: Iterator[dict], path: str, types: dict[str, pa.DataType] | None = None) -> pa.Table:
    """A table of the rows; a key that a row lacks is None there.

    `types` None: by the values, and a column whose values are of several kinds is kept as JSON (data/mixed.py).
    """
    pieces = []
    first = 1
    while piece := list(itertools.islice(rows, PIECE)):
        names = list(types or dict.fromkeys(key for row in piece for key in row))
        if bad := [name for name in names if not re.fullmatch("[^\\0\ud800-\udfff]*", name)]:
            raise UserError(
                f"{path}: the column name {truncated_repr(bad[0])} holds characters that are no text: rename it"
            )
        columns, problems = {}, {}
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


def join(tables: list[pa.Table], paths: list[str]) -> pa.Table:
    """The rows of all files in order. Raises UserError unless all have the same columns and class names."""
    if len(tables) == 1:
        return tables[0]
    problems = []
    for table, path in zip(tables, paths, strict=True):
        if set(table.column_names) != set(tables[0].column_names):
            problems.append(f"{path} has the columns {listed(table.column_names)}")
        elif noted_class_names(table) != noted_class_names(tables[0]):
            problems.append(f"{path} has other class names")
    if problems:
        known = listed(tables[0].column_names)
        raise UserError([f"{problem}, {paths[0]} has {known}: name files of one kind" for problem in problems])
    names = tables[0].column_names
    return _concat([table.select(names) for table in tables], paths)


def class_names(features: Mapping) -> dict[str, list[str]]:
    """Of each column that holds class numbers, or lists of them; `features` are those of the library `datasets`."""
    kinds = {key: getattr(kind, "feature", kind) for key, kind in features.items()}  # of a list: its items'
    return {key: kind.names for key, kind in kinds.items() if hasattr(kind, "names")}


def noted_class_names(table: pa.Table) -> dict[str, list[str]]:
    """Those that `datasets` notes in the files that it writes. Raises ValueError, TypeError or KeyError if damaged."""
    if b"huggingface" not in (table.schema.metadata or {}):
        return {}
    from datasets import Features  # here, because importing it takes 0.5 s and 30 MiB

    return class_names(Features.from_arrow_schema(table.schema))


def python_rows(table: pa.Table, name: str, first: int) -> list[dict]:
    """The table's rows as python values; `first` is the number of its first row, from 1.

    Raises UserError for values that Python has no type for: dates outside of the years 1 to 9999, times of a zone that
    is not known, durations beyond a million years.
    """
    try:
        return table.to_pylist()
    except (pa.ArrowException, OverflowError, ValueError, ImportError):
        problems = [_value_problem(table[column], column, name, first) for column in table.column_names]
    raise UserError([problem for problem in problems if problem is not None])


def _value_problem(values: pa.ChunkedArray, column: str, name: str, first: int) -> str | None:
    """What is wrong with the first value of a column that Python has no type for."""
    for number, value in enumerate(values, first):
        try:
            value.as_py()
        except (pa.ArrowException, OverflowError, ValueError, ImportError) as error:
            return (
                f"{name}, row {number}: column {column!r} holds a {values.type} that Python cannot express ({error}): "
                "write it as text, or leave the column out"
            )
    return None


def _concat(tables: list[pa.Table], names: list[str]) -> pa.Table:
    """All rows; `names` say where those of each table are from. Columns of several kinds become JSON."""
    if not tables:
        return pa.table({})
    problems = _misfits(tables, names)
    try:
        tables = [mixed.as_json(table, problems) for table in tables]
    except TypeError:
        raise UserError(problems.values()) from None
    return pa.concat_tables(tables, promote_options="permissive")


def _misfits(tables: list[pa.Table], names: list[str]) -> dict[str, str]:
    """What is wrong with each column that is not of one kind in all tables."""
    problems: dict[str, str] = {}
    schemas: dict[str, pa.Schema] = {}
    for table, name in zip(tables, names, strict=True):
        problems = mixed.noted(table.schema) | problems
        for field in table.schema:
            both = [schemas.setdefault(field.name, pa.schema([field])), pa.schema([field])]
            try:
                schemas[field.name] = pa.unify_schemas(both, promote_options="permissive")
            except pa.ArrowException as error:
                fault = f"{name}: column {field.name!r} is not of the kind that it has before ({error})"
                problems.setdefault(field.name, fault)
    return problems


def _column(values: list, name: str, path: str, types, first: int) -> pa.Array:
    kind = types and types[name]
    if (wrong := _wrong(values, kind)) is None:
        return _array(values, kind)
    # The values up to a row are of one kind, those with it are not: found by halves.
    row = bisect.bisect_left(
        range(1, len(values) + 1), True, key=lambda count: _wrong(values[:count], kind) is not None
    )
    wrong = _wrong(values[: row + 1], kind) or wrong
    if isinstance(wrong, UnicodeEncodeError):
        fix = "half of a character (a surrogate) that has no other half: retype the character"
        raise UserError(f"{path}, row {first + row}: column {name!r} holds {fix}")
    simple = all(isinstance(value, str | int | float | None) for value in values[: row + 1])
    fix = "write all of them as text, or all as numbers" if simple else "write all of them in one way"
    raise UserError(
        f"{path}, row {first + row}: {truncated_repr(values[row])} in column {name!r} is not of the kind of the "
        f"values before it ({clipped(str(wrong).rstrip('.'), 200)}): {fix}"
    )


def _array(values: list, kind) -> pa.Array:
    """What `pa.array` makes, which imports pandas (0.3 s, 40 MiB); a column of text is built without."""
    kinds = set(map(type, values))
    if str not in kinds or not kinds <= {str, type(None)} or kind not in (None, pa.string()):
        return pa.array(values, type=kind)
    texts = [(value or "").encode() for value in values]
    ends = np.cumsum([0, *map(len, texts)])
    if ends[-1] > LARGEST:
        return pa.array(values, type=kind)  # which makes several arrays of it
    known = np.packbits([value is not None for value in values], bitorder="little")
    buffers = map(pa.py_buffer, (known, ends.astype(np.int32), b"".join(texts)))
    return pa.Array.from_buffers(pa.string(), len(values), list(buffers))


def _wrong(values: list, kind) -> Exception | None:
    try:
        made = _array(values, kind)
        if pa.types.is_floating(made.type) and any(isinstance(value, bool) for value in values):
            raise ValueError("a truth value among numbers")  # which would become 0 or 1
    except (pa.ArrowException, OverflowError, ValueError, TypeError) as error:
        return error
    return None
