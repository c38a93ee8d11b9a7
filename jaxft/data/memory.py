"""Rows that a program holds in memory: a list of dicts, a DataFrame, an Arrow table, a data set."""

import dataclasses
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
    if isinstance(value, str):
        return Data(path=value)
    kind = f"{type(value).__module__.partition('.')[0]}.{type(value).__qualname__}".removeprefix("builtins.")
    content = _content(value, kind)
    if content is None:
        raise UserError(f"the data is {truncated_repr(value)} ({kind}), expected {KINDS}")
    if len(content) == 0:
        raise UserError(f"the data ({kind}) has no rows")
    return InMemory(kind=kind, rows=len(content), content=content)


def _content(value: Any, kind: str) -> Any:
    """What `as_rows` takes; None for values that are not rows. Values of a column are read as those of a .jsonl."""
    if kind == "pandas.DataFrame":
        return pa.Table.from_pandas(value, preserve_index=False).replace_schema_metadata(None)
    if kind == "polars.DataFrame":
        return value.to_arrow()
    if isinstance(value, pa.Table) or is_dataset(value):
        return value
    if isinstance(value, list | tuple) and all(isinstance(row, dict) for row in value):
        return table_of(iter(value), "the list")
    return value if isinstance(value, Sequence) or _is_map_style(value) else None


def _is_map_style(value: Any) -> bool:
    """Whether it has a length and rows by number, as map-style data sets of PyTorch have."""
    return all(callable(getattr(type(value), name, None)) for name in ("__len__", "__getitem__")) and not (
        isinstance(value, str | bytes | dict)
    )
