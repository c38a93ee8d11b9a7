"""Open files, saved directories and hub data sets as rows with random access."""

import glob
import operator
import os
import sys
from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa

from jaxft.configurable import config
from jaxft.data import mixed
from jaxft.data.files import READERS, is_text, read_file, suffix
from jaxft.data.tables import class_names, join, noted_class_names
from jaxft.problems import UserError, listed, raise_problems, shown, suggest
from jaxft.ranges import Count, problems_of


@config
class Data:
    """Rows of a file, of files named by a glob, of a directory that `save_to_disk` wrote, or of a hub data set.

    Files: .jsonl .json .csv .tsv .parquet .arrow .txt .conll .iob, each plain or with .gz added. Cells of csv and tsv
    stay exactly the text that they are. The last two hold sentences, a word a line, and so does a file of any name
    whose `columns` are given (data/conll.py).
    """

    path: str
    split: str | None = None  # of a hub data set or a saved directory
    name: str | None = None  # configuration of a hub data set
    limit: Count | None = None  # only so many rows from the start
    quote: str = '"'  # of csv and tsv; "" where quotes are ordinary characters
    delimiter: str | None = None  # of csv and tsv; None: a comma, a tab
    documents: bool = False  # a row of a .txt is a document, whose lines end at a blank line; False: each line is a row
    columns: tuple[str, ...] = ()  # names of a sentence file's columns; (): "tokens", the first, and "tags", the last

    def problems(self) -> list[str]:
        found = []
        if self.delimiter is not None and len(self.delimiter) != 1:
            found.append(f"delimiter is {shown(self.delimiter)}, expected one character, or None for the usual one")
        if len(self.quote) > 1:
            found.append(f"quote is {shown(self.quote)}, expected one character, or '' for none")
        if len(set(self.columns)) < len(self.columns):
            found.append(f"columns are {listed(self.columns)}: each must have a name of its own")
        return found

    def open(self) -> "Rows":
        """Reads the source. Raises UserError if it is missing, malformed or empty."""
        raise_problems(problems_of(self))
        path = os.path.expanduser(self.path)
        if os.path.isdir(path) and _was_saved(path):
            if self.name is not None:
                raise UserError(f"{self.path} was written by save_to_disk and has no configurations: leave name unset")
            from datasets import load_from_disk

            opened = self._pick(load_from_disk(path))
        elif os.path.isfile(path) or glob.has_magic(path):
            opened = self._read(path)
        elif self.columns or _looks_like_path(path):
            raise UserError(f"no such file: {self.path}.{_near(path)}")
        else:
            opened = self._load(path)
        return as_rows(opened, self.path).first(self.limit)

    def _read(self, path: str) -> pa.Table:
        paths = [path] if os.path.isfile(path) else sorted(filter(os.path.isfile, glob.glob(path, recursive=True)))
        problems = [f"no file matches {self.path}"] if not paths else []
        problems += [
            f"{one}: unknown kind of file, expected one of {' '.join(READERS)}, or one of them with .gz; "
            + ("if it holds a word a line, name its columns" if is_text(one) else "save its rows as .csv or .jsonl")
            for one in paths
            if suffix(one) not in READERS and not self.columns
        ]
        if self.documents and not all(suffix(one) == ".txt" for one in paths):
            problems.append(f"{self.path}: documents=True is for .txt files, whose blank lines separate documents")
        if self.split is not None or self.name is not None:
            problems.append(f"{self.path} is a file: it has no splits or configurations; leave split and name unset")
        if problems:
            raise UserError(problems)
        return join([read_file(one, self.quote, self.columns, self.documents, self.delimiter) for one in paths], paths)

    def _load(self, path: str):
        import datasets

        datasets.disable_progress_bars()
        datasets.logging.set_verbosity_error()
        try:
            found = datasets.load_dataset(path, self.name, split=self.split)
        except Exception as error:  # The library raises some twenty kinds, from four packages.
            reason = str(error).strip().split("\n")[0]
            raise UserError(
                f"no file, directory or cached dataset {path!r} (name={self.name!r}, split={self.split!r}): {reason} "
                "Without a network, give a local file or a directory written by save_to_disk."
            ) from error
        return found if self.split is not None else self._pick(found)

    def _pick(self, found):
        """The split to read of a DatasetDict; a single data set as it is."""
        if _is_dataset(found):
            if self.split not in (None, str(found.split)):
                raise UserError(f"{self.path} is one data set without splits: leave split unset")
            return found
        split = self.split if self.split is not None or len(found) > 1 else next(iter(found))
        if split in found:
            return found[split]
        asked = "which split?" if split is None else f"there is no split {shown(split)}.{suggest(split, found)}"
        raise UserError(f"{self.path}: {asked} Set split to one of: {listed(found)}")


class Rows(Sequence):
    """Rows by number: `rows[3]` is a dict of python values, `rows[a:b]` a list of them.

    `columns` are the column names, `classes` has the class names of the columns that hold class numbers, `name` is for
    messages, `mixed` says what is wrong with the columns whose values are of several kinds.
    """

    def __init__(
        self, name: str, columns: list[str], classes: dict[str, list[str]], count: int, read: Callable, mixed=None
    ):
        self.name, self.columns, self.classes = name, columns, classes
        self.mixed: dict[str, str] = mixed or {}
        self._count, self._read = count, read

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
        return Rows(self.name, self.columns, self.classes, count, self._read, self.mixed)

    def named(self) -> "Rows":
        """The same rows with class names in place of class numbers; a negative number, no class, becomes None."""

        def read(start, stop):
            return [{**row, **self._class_names(row)} for row in self._read(start, stop)]

        return Rows(self.name, self.columns, self.classes, self._count, read, self.mixed) if self.classes else self

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
        return _rows_of_table(opened, name)
    if _is_dataset(opened):
        # A format (tensors, or some of the columns) is for other libraries; a transform of the user's own stays.
        opened = opened if opened.format["type"] == "custom" else opened.with_format(None)
        classes = class_names(opened.features)
        return Rows(name, opened.column_names, classes, len(opened), lambda a, b: _transpose(opened[a:b], b - a))
    columns = list(getattr(opened, "columns", None) or opened[0])
    return Rows(
        name, columns, getattr(opened, "classes", {}), len(opened), lambda a, b: _own_rows(opened, name, columns, a, b)
    )


def _rows_of_table(table: pa.Table, name: str) -> Rows:
    odd = mixed.noted(table.schema)

    def read(start: int, stop: int) -> list[dict]:
        rows = table.slice(start, stop - start).to_pylist()
        return mixed.plain(rows, odd) if odd else rows

    return Rows(name, table.column_names, noted_class_names(table), len(table), read, odd)


def _is_dataset(opened) -> bool:
    """Of the library `datasets`, which is then imported; it is not for files, since that takes 0.5 s and 30 MiB."""
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
                f"{name}, row {number + 1}: expected a dict with the keys {listed(columns)}, found {shown(row)}"
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


def _was_saved(directory: str) -> bool:
    return any(os.path.isfile(os.path.join(directory, name)) for name in ("state.json", "dataset_dict.json"))


def _looks_like_path(path: str) -> bool:
    return suffix(path) in READERS or path.startswith((os.sep, "." + os.sep, ".." + os.sep, "~")) or path.count("/") > 1


def _near(path: str) -> str:
    directory, name = os.path.split(path)
    directory = directory or "."
    return (
        suggest(name, os.listdir(directory)) if os.path.isdir(directory) else f" The directory {directory} is missing."
    )
