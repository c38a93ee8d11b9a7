"""A source in a field of another source, whose rows that one changes."""

from typing import Any

from jaxft.config.component import is_config
from jaxft.config.protocols import Source
from jaxft.config.ranges import problems_of
from jaxft.data.example import Row
from jaxft.data.row_sequence import Rows, as_rows
from jaxft.problems import UserError, listed, raise_problems, suggest, truncated_repr


def source_problems(source: Any, field: str) -> list[str]:
    """Problems of the value of a field that should be a source."""
    if not is_config(source) or not isinstance(source, Source):
        return [f"{field} is {truncated_repr(source)}, expected a source such as Data(...)"]
    return [f"{field}: {problem}" for problem in problems_of(source)]


def column_problems(columns: tuple[str, ...]) -> list[str]:
    """A problem if no column is named."""
    return [] if columns else ["columns is empty: name one column or more"]


def open_within(source: Source, field: str, columns: tuple[str, ...]) -> Rows:
    """The rows of the source in a field. Raises UserError, also if it lacks one of the columns."""
    try:
        rows = as_rows(source.open(), field)
    except UserError as error:
        raise UserError([f"{field}: {problem}" for problem in error.problems]) from None
    raise_problems(
        f"{rows.name} has no column {name!r}.{suggest(name, rows.columns)} Columns: {listed(rows.columns)}. Name "
        "the right one in columns"
        for name in columns
        if name not in rows.columns
    )
    return rows


def cell_text(row: Row, column: str) -> str:
    """A cell as text: None as an empty text, numbers as they print, a list of words joined by spaces."""
    value = row[column]
    words = value if isinstance(value, list) else [value]
    if any(not isinstance(word, str | int | float | None) for word in words):
        raise UserError(f"column {column!r} holds {truncated_repr(value)}, expected a text")
    return " ".join("" if word is None else str(word) for word in words)
