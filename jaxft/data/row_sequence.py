"""Rows by number, whatever they come from: an Arrow table, a data set of the library `datasets`, a list of dicts."""

import operator
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence

import pyarrow as pa

from jaxft.data import mixed
from jaxft.data.tables import class_names, noted_class_names, python_rows
from jaxft.problems import UserError, listed, truncated_repr


class Rows(Sequence):
    """Rows by number: `rows[3]` is a dict of python values, `rows[a:b]` a list of them.

    `columns` are the column names, `classes` has the class names of the columns that hold class numbers, `name` is for
    messages, `mixed` says what is wrong with the columns whose values are of several kinds. `select(columns)`, where
    the source can do it, gives the same rows without reading other columns.
    """

    def __init__(
        self,
        name: str,
        columns: list[str],
        classes: dict[str, list[str]],
        count: int,
        read: Callable,
        mixed: dict[str, str] | None = None,
        select: Callable | None = None,
    ):
        self.name, self.columns, self.classes = name, columns, classes
        self.mixed: dict[str, str] = mixed or {}
        self._count, self._read, self._select = count, read, select

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, key):
        if isinstance(key, slice):
            start, stop, step = key.indices(self._count)
            return self._read(start, max(start, stop)) if step == 1 else [self[i] for i in range(start, stop, step)]
        number = operator.index(key)
        if not -self._count <= number < self._count:
            raise IndexError(f"row {number} of {self.name}, which has {self._count}")
        number %= self._count
        return self._read(number, number + 1)[0]

    def first(self, limit: int | None) -> "Rows":
        """So many rows from the start, or as many as there are; None: all."""
        count = self._count if limit is None else min(limit, self._count)
        return Rows(self.name, self.columns, self.classes, count, self._read, self.mixed, self._select)

    def only(self, columns: Iterable[str]) -> "Rows":
        """The same rows with these columns alone. Names that are no columns are ignored."""
        wanted = set(columns)
        kept = [name for name in self.columns if name in wanted]
        if self._select is not None:
            return self._select(kept).first(self._count)
        classes, mixed = ({name: own[name] for name in kept if name in own} for own in (self.classes, self.mixed))

        def read(start, stop):
            return [{name: row[name] for name in kept} for row in self._read(start, stop)]

        return Rows(self.name, kept, classes, self._count, read, mixed)

    def named(self) -> "Rows":
        """The same rows with class names in place of class numbers; a negative number, no class, becomes None."""

        def read(start, stop):
            return [{**row, **self._class_names(row)} for row in self._read(start, stop)]

        if not self.classes:
            return self

        def select(columns: list[str]) -> Rows:
            return self.only(columns).named()

        return Rows(self.name, self.columns, self.classes, self._count, read, self.mixed, select)

    def _class_names(self, row: dict) -> dict:
        return {key: _named(row[key], names) for key, names in self.classes.items()}

    def __iter__(self):
        for start in range(0, self._count, 1000):
            yield from self[start : start + 1000]


def as_rows(opened, name: str) -> Rows:
    """Rows of what a source opened: Rows, an Arrow table, a Dataset, or a sequence of dicts with the same keys."""
    if isinstance(opened, Rows):
        return opened
    if len(opened) == 0:
        raise UserError(f"{name} has no rows")
    if isinstance(opened, pa.Table):
        return _table_rows(opened, name, noted_class_names(opened))
    if is_dataset(opened):
        # A format (tensors, or some of the columns) is for other libraries; a transform of the user's own stays.
        return _dataset_rows(opened if opened.format["type"] == "custom" else opened.with_format(None), name)
    columns = list(getattr(opened, "columns", None) or opened[0])
    return Rows(
        name, columns, getattr(opened, "classes", {}), len(opened), lambda a, b: _own_rows(opened, name, columns, a, b)
    )


def _table_rows(table: pa.Table, name: str, classes: dict[str, list[str]]) -> Rows:
    odd = mixed.noted(table.schema)

    def select(columns: list[str]) -> Rows:
        kept = {column: names for column, names in classes.items() if column in columns}
        return _table_rows(table.select(columns), name, kept)

    def read(start, stop):
        rows = python_rows(table.slice(start, stop - start), name, start + 1)
        return mixed.plain(rows, odd) if odd else rows

    return Rows(name, table.column_names, classes, len(table), read, odd, select)


def _dataset_rows(opened, name: str) -> Rows:
    def select(columns: list[str]) -> Rows:
        return _dataset_rows(opened.select_columns(columns), name)

    def read(start, stop):
        try:
            return _transpose(opened[start:stop], stop - start)
        except (pa.ArrowException, OverflowError, ValueError, ImportError):
            python_rows(opened.with_format("arrow")[start:stop], name, start + 1)  # which says what is wrong
            raise

    if opened.format["type"] == "custom":  # a transform, which may need every column
        return Rows(name, opened.column_names, class_names(opened.features), len(opened), read)

    return Rows(name, opened.column_names, class_names(opened.features), len(opened), read, None, select)


def is_dataset(opened) -> bool:
    """Whether it is a `datasets.Dataset`. Does not import `datasets`, which costs 0.5 s and 30 MiB."""
    library = sys.modules.get("datasets")
    return library is not None and isinstance(opened, library.Dataset)


def _own_rows(opened, name: str, columns: list[str], start: int, stop: int) -> list[dict]:
    """Rows of a recipe's own source; an error that it raises is passed on with the row's number."""
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
        rows.append(dict(row))
    return rows


def _named(value, names: list[str]):
    """Class numbers as names, also in a list; -1 stands for no class."""
    if isinstance(value, list):
        return [_named(item, names) for item in value]
    if not isinstance(value, int):
        return value
    if value >= len(names):
        raise UserError(f"there is a class number {value}, but only {len(names)} class names: {listed(names)}")
    return names[value] if value >= 0 else None


def _transpose(columns: dict[str, list], count: int) -> list[dict]:
    return [{key: values[i] for key, values in columns.items()} for i in range(count)]
