"""A source within a source: what those that change another's rows have in common."""

from jaxft.config.component import is_config
from jaxft.config.ranges import problems_of
from jaxft.data.source import Rows, as_rows
from jaxft.problems import UserError, listed, raise_problems, suggest, truncated_repr


def source_problems(source, field: str) -> list[str]:
    """What is wrong with the source in a field of another, which may be that it is none."""
    if not is_config(source) or not hasattr(source, "open"):
        return [f"{field} is {truncated_repr(source)}, expected a source such as Data(...)"]
    return [f"{field}: {problem}" for problem in problems_of(source)]


def column_problems(columns: tuple[str, ...]) -> list[str]:
    return [] if columns else ["columns are none: name one or more"]


def open_within(source, field: str, columns: tuple[str, ...]) -> Rows:
    """The rows of the source in a field of another. Raises UserError, also where it lacks one of the columns."""
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


def cell_text(row: dict, column: str) -> str:
    """A cell as text: None is an empty one, numbers as they print, words in a list with spaces between them."""
    value = row[column]
    words = value if isinstance(value, list) else [value]
    if any(not isinstance(word, str | int | float | None) for word in words):
        raise UserError(f"column {column!r} holds {truncated_repr(value)}, expected a text")
    return " ".join("" if word is None else str(word) for word in words)
