"""Rows by number, from an Arrow table, a data set of the library `datasets`, or a sequence of dicts."""

import operator
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, overload, runtime_checkable

import numpy as np
import pyarrow as pa

from jaxft.data import mixed
from jaxft.data.example import Row
from jaxft.data.tables import class_names, noted_class_names, python_rows
from jaxft.problems import UserError, listed, truncated_repr


@runtime_checkable
class NamesColumns(Protocol):
    """Optional for what a user's source opens: its column names; without them, those of the first row."""

    columns: Sequence[str]


@runtime_checkable
class NamesClasses(Protocol):
    """Optional for what a user's source opens: the class names of columns that hold class numbers."""

    classes: dict[str, list[str]]


@runtime_checkable
class ArrayLike(Protocol):
    """A value that NumPy reads as an array."""

    def __array__(self) -> Any: ...


class Rows(Sequence[Row]):
    """Rows by number: `rows[3]` is a dict of Python values, `rows[a:b]` a list of dicts.

    `name` is used in messages, `columns` are the column names, `classes` the class names of columns that hold class
    numbers, and `mixed` what is wrong with the columns whose values have different types.
    """

    def __init__(
        self,
        name: str,
        columns: list[str],
        classes: dict[str, list[str]],
        count: int,
        read: Callable[[int, int], list[Row]],
        mixed: dict[str, str] | None = None,
        select: "Callable[[list[str]], Rows] | None" = None,
    ):
        """`read(start, stop)` reads rows; `select(columns)`, if there is one, gives rows with these columns only."""
        self.name, self.columns, self.classes = name, columns, classes
        self.mixed: dict[str, str] = mixed or {}
        self._count, self._read, self._select = count, read, select

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, key: int) -> Row: ...

    @overload
    def __getitem__(self, key: slice) -> list[Row]: ...

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            start, stop, step = key.indices(self._count)
            return self._read(start, max(start, stop)) if step == 1 else [self[i] for i in range(start, stop, step)]
        number = operator.index(key)
        if not -self._count <= number < self._count:
            raise IndexError(f"row {number} of {self.name}, which has {self._count}")
        number %= self._count
        return self._read(number, number + 1)[0]

    def first(self, limit: int | None) -> "Rows":
        """The first rows, at most `limit`; None: all."""
        count = self._count if limit is None else min(limit, self._count)
        return Rows(self.name, self.columns, self.classes, count, self._read, self.mixed, self._select)

    def only(self, columns: Iterable[str]) -> "Rows":
        """The same rows with these columns only. Unknown names are ignored."""
        wanted = set(columns)
        names = [name for name in self.columns if name in wanted]
        if self._select is not None:
            return self._select(names).first(self._count)
        classes = {name: self.classes[name] for name in names if name in self.classes}
        mixed = {name: self.mixed[name] for name in names if name in self.mixed}

        def read(start: int, stop: int) -> list[Row]:
            return [{name: row[name] for name in names} for row in self._read(start, stop)]

        return Rows(self.name, names, classes, self._count, read, mixed)

    def named(self) -> "Rows":
        """The same rows with class names in place of class numbers; negative numbers become None."""

        def read(start: int, stop: int) -> list[Row]:
            return [{**row, **self._class_names(row)} for row in self._read(start, stop)]

        if not self.classes:
            return self

        def select(columns: list[str]) -> Rows:
            return self.only(columns).named()

        return Rows(self.name, self.columns, self.classes, self._count, read, self.mixed, select)

    def _class_names(self, row: Row) -> Row:
        return {key: _named(row[key], names) for key, names in self.classes.items()}

    def __iter__(self) -> Iterator[Row]:
        for start in range(0, self._count, 1000):
            yield from self[start : start + 1000]


def as_rows(opened: Any, name: str) -> Rows:
    """Rows from what a source opened: Rows, an Arrow table, a Dataset, or a sequence of dicts with the same keys."""
    if isinstance(opened, Rows):
        return opened
    if len(opened) == 0:
        raise UserError(f"{name} has no rows: choose a source with one row or more")
    if isinstance(opened, pa.Table):
        return _table_rows(opened, name, noted_class_names(opened))
    if is_dataset(opened):
        # A format (tensors, or a choice of columns) is removed; the user's own transform stays.
        return _dataset_rows(opened if opened.format["type"] == "custom" else opened.with_format(None), name)
    if isinstance(opened, NamesColumns) and opened.columns:
        columns = list(opened.columns)
    elif isinstance(first := opened[0], Mapping):
        columns = list(first)
    else:
        raise UserError(f"{name}, row 1: expected a dict of column names and values, found {truncated_repr(first)}")
    classes = opened.classes if isinstance(opened, NamesClasses) else {}
    return Rows(name, columns, classes, len(opened), lambda a, b: _own_rows(opened, name, columns, a, b))


def rows_at(rows: Rows, numbers: np.ndarray, name: str) -> Rows:
    """The rows with these ascending numbers, int64 (n,); consecutive rows are read together."""

    def read(start: int, stop: int) -> list[Row]:
        some = numbers[start:stop]
        runs = np.split(some, np.flatnonzero(np.diff(some) > 1) + 1) if len(some) else []
        return [row for run in runs for row in rows[int(run[0]) : int(run[-1]) + 1]]

    return Rows(name, rows.columns, rows.classes, len(numbers), read, rows.mixed)


def _table_rows(table: pa.Table, name: str, classes: dict[str, list[str]]) -> Rows:
    problems = mixed.noted(table.schema)

    def select(columns: list[str]) -> Rows:
        named = {column: names for column, names in classes.items() if column in columns}
        return _table_rows(table.select(columns), name, named)

    def read(start: int, stop: int) -> list[Row]:
        rows = python_rows(table.slice(start, stop - start), name, start + 1)
        return mixed.plain(rows, problems) if problems else rows

    return Rows(name, table.column_names, classes, len(table), read, problems, select)


def _dataset_rows(opened: Any, name: str) -> Rows:
    def select(columns: list[str]) -> Rows:
        return _dataset_rows(opened.select_columns(columns), name)

    def read(start: int, stop: int) -> list[Row]:
        try:
            return _transpose(opened[start:stop], stop - start)
        except (pa.ArrowException, OverflowError, ValueError, ImportError):
            python_rows(
                opened.with_format("arrow")[start:stop], name, start + 1
            )  # raises a UserError that says what is wrong
            raise

    if opened.format["type"] == "custom":  # a transform may need every column
        return Rows(name, opened.column_names, class_names(opened.features), len(opened), read)

    return Rows(name, opened.column_names, class_names(opened.features), len(opened), read, None, select)


def is_dataset(opened: Any) -> bool:
    """Whether it is a `datasets.Dataset`. Does not import `datasets`, which costs 0.5 s and 30 MiB."""
    library = sys.modules.get("datasets")
    return library is not None and isinstance(opened, library.Dataset)


def _own_rows(opened: Any, name: str, columns: list[str], start: int, stop: int) -> list[Row]:
    """Rows of a user's own source; its errors get a note with the row number."""
    rows = []
    for number in range(start, stop):
        try:
            row = opened[number]
        except Exception as error:
            error.add_note(f"raised by {name} when asked for row {number + 1} of {len(opened)}")
            raise
        if not isinstance(row, Mapping) or not row.keys() >= set(columns):
            raise UserError(
                f"{name}, row {number + 1}: expected a dict with the keys {listed(columns)}, found "
                f"{truncated_repr(row)}"
            )
        rows.append({name: _plain(value) for name, value in row.items()})
    return rows


def _plain(value: Any) -> Any:
    """Numbers and lists of NumPy, PyTorch or JAX as those of Python; arrays of more axes stay."""
    if not isinstance(value, ArrayLike) or np.ndim(found := np.asarray(value)) > 1:
        return value
    return found.tolist()


def _named(value: Any, names: list[str]) -> Any:
    """Class numbers as names, also in lists; None for negative numbers."""
    if isinstance(value, list):
        return [_named(item, names) for item in value]
    if not isinstance(value, int):
        return value
    if value >= len(names):
        raise UserError(f"there is a class number {value}, but only {len(names)} class names: {listed(names)}")
    return names[value] if value >= 0 else None


def _transpose(columns: dict[str, list[Any]], count: int) -> list[Row]:
    return [{key: values[i] for key, values in columns.items()} for i in range(count)]
