"""Rows that a program holds in memory: a list of dicts, a DataFrame, an Arrow table, a data set."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from jaxft.config.component import NOT_JSON, config, is_config
from jaxft.config.ranges import Count
from jaxft.data.row_sequence import is_dataset
from jaxft.data.source import Data
from jaxft.data.tables import table_of
from jaxft.problems import UserError, truncated_repr

KINDS = "a file's path, a list of dicts, a DataFrame, a datasets.Dataset, or an object with a length and rows"


@config
class InMemory:
    """Rows that were given to `jaxft.fit`. A configuration that is written as JSON has their kind and number only."""

    kind: str  # "list", "pandas.DataFrame", ...
    rows: Count
    content: Any = dataclasses.field(default=None, repr=False, metadata=NOT_JSON)

    def open(self) -> Any:
        """The rows. Raises UserError if the configuration was read from a file, which does not hold them."""
        if self.content is None:
            raise UserError(
                f"the {self.rows} rows were given in Python ({self.kind}) and are not in the work directory: call "
                "jaxft.fit again with the same rows, or write them to a file and set config.data.path"
            )
        return self.content


def as_source(value: Any) -> Any:
    """A source of rows: a component itself, a path, or anything that KINDS names. Raises UserError for others."""
    if is_config(value) or value is None:
        return value
    if isinstance(value, str | os.PathLike):
        return Data(path=os.fspath(value))
    kind = f"{type(value).__module__.partition('.')[0]}.{type(value).__qualname__}".removeprefix("builtins.")
    content = _content(value, kind)
    if content is None:
        raise UserError(f"the data is {truncated_repr(value)} ({kind}), expected {KINDS}")
    if len(content) == 0:
        raise UserError(f"the data ({kind}) has no rows")
    return InMemory(kind=kind, rows=len(content), content=content)


def _content(value: Any, kind: str) -> Any:
    """What `as_rows` takes; None for values that are not rows. The libraries of DataFrames are not imported."""
    if kind == "pandas.DataFrame":
        return _of_pandas(value)
    if kind == "polars.DataFrame":
        return value.to_arrow()
    if isinstance(value, list | tuple) and all(isinstance(row, dict) for row in value):
        return _table(value, kind)
    return value if isinstance(value, pa.Table) or is_dataset(value) or _is_map_style(value) else None


def _of_pandas(frame: Any) -> pa.Table:
    """The table of a pandas.DataFrame without its index. NaN and other missing values are null."""
    if twice := list(frame.columns[frame.columns.duplicated()]):
        raise UserError(f"the DataFrame has the column {truncated_repr(twice[0])} more than once: rename columns")
    try:
        return pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    except pa.ArrowException:  # a column whose values have several types: an error only if the task reads it
        rows = frame.astype(object).where(frame.notna(), None).rename(columns=str).to_dict("records")
        return _table(rows, "pandas.DataFrame")


def _table(rows: Sequence[dict[str, Any]], kind: str) -> pa.Table:
    try:
        return table_of(iter(rows), f"the data ({kind})")
    except TypeError as error:
        raise UserError(f"the data ({kind}) holds a value that is no number, text, list or dict: {error}") from None


def _is_map_style(value: Any) -> bool:
    """Whether it has a length and rows by number, as map-style data sets of PyTorch have."""
    return all(callable(getattr(type(value), name, None)) for name in ("__len__", "__getitem__")) and not (
        isinstance(value, bytes | dict)
    )
