"""What to write if the data lack columns that the task reads: which flag, and with which of their columns."""

import dataclasses
import re
from collections.abc import Callable, Iterable
from typing import Any

from jaxft.data.source import Rows
from jaxft.problems import UserError, listed, near, truncated_repr
from jaxft.tasks.base import Task

SAMPLE = 100  # rows whose cells are looked at
NUMBER = re.compile(r"[-+]?[\d.,]+")
TAG = re.compile(r"O|[BIESLU]-.+")


def missing_columns(task: Task, rows: Rows, where: str) -> list[str]:
    """A problem for each column that the task reads and the rows lack, with the flag that names another one.

    A column is proposed if its name is similar, or if it is the only one whose cells look as the field needs them.
    """
    missing = [name for name in task.columns() if name not in rows.columns]
    if not missing:
        return []
    free = [name for name in rows.columns if name not in task.columns()]
    fields = {name: _field(task, name) for name in missing}
    found = {name: _proposal(name, fields[name], free, rows) for name in missing}
    return [
        f"{where}: there is no column {name!r}.{_meant(found[name], list(found.values()))} "
        f"Columns: {listed(rows.columns)}. {_fix(task, fields[name], name, found[name])}"
        for name in missing
    ]


def _field(task: Task, column: str) -> str | None:
    """The field of a task that names a column, or is a template with it; None if it has a column built in."""
    for field in dataclasses.fields(task):  # type: ignore[arg-type]  # every task is a dataclass
        value = getattr(task, field.name)
        names = value if isinstance(value, tuple) else (value,)
        if any(isinstance(name, str) and column in (name, *re.findall(r"{(\w+)", name)) for name in names):
            return field.name
    return None


def _proposal(name: str, field: str | None, free: list[str], rows: Rows) -> str | None:
    similar = near(name, free, 1)
    looks = LOOKS.get(field or "")
    if looks is None:
        return similar[0] if similar else None
    try:
        sample = rows.only(free)[:SAMPLE]
    except UserError:  # a cell that Python cannot express
        return similar[0] if similar else None
    cells = {one: [row[one] for row in sample if row[one] not in (None, "")] for one in free}
    fitting = [one for one, values in cells.items() if values and one not in rows.mixed and looks(values)]
    # A similar name is enough, but for a column of numbers where texts are needed.
    if similar and (similar[0] in fitting or field != "text" or not _are_numbers(cells[similar[0]])):
        return similar[0]
    return fitting[0] if len(fitting) == 1 else None


def _meant(found: str | None, every: list[str | None]) -> str:
    return f" Did you mean {found!r}?" if found is not None and every.count(found) == 1 else ""


def _fix(task: Task, field: str | None, name: str, found: str | None) -> str:
    if field is None:
        return "Rename a column"
    value = getattr(task, field)
    if value == name:
        return f"Name the right one: --config.task.{field}={found or 'COLUMN'}"
    return f"Name the right one in --config.task.{field}, which is {truncated_repr(value)}"


def _are_words(values: list[Any]) -> bool:
    return _are_lists(values, str) and not _are_tags(values)


def _are_tags(values: list[Any]) -> bool:
    return _are_lists(values, int) or _are_lists(values, str) and all(map(TAG.fullmatch, _items(values)))


def _are_spans(values: list[Any]) -> bool:
    return _are_lists(values, dict) and all({"start", "end", "label"} <= one.keys() for one in _items(values))


def _are_lists(values: list[Any], kind: type) -> bool:
    items = list(_items(values)) if all(isinstance(value, list) for value in values) else []
    return bool(items) and all(isinstance(item, kind) for item in items)


def _items(values: list[Any]) -> Iterable[Any]:
    return (item for value in values for item in value)


def _are_numbers(values: list[Any]) -> bool:
    return all(isinstance(value, int | float) or NUMBER.fullmatch(str(value).strip()) for value in values)


def _are_texts(values: list[Any]) -> bool:
    """Texts of several words, most of which differ."""
    if not all(isinstance(value, str) for value in values):
        return False
    return len(set(values)) * 2 > len(values) and sum(len(value.split()) > 1 for value in values) * 2 > len(values)


def _are_labels(values: list[Any]) -> bool:
    """Short texts or numbers, most of which occur several times."""
    if not all(isinstance(value, str | int) for value in values):
        return False
    return len(set(values)) > 1 and len(set(values)) * 3 <= len(values) and all(len(str(one)) < 30 for one in values)


# How the cells of a field's column look; the fields are those of the tasks.
LOOKS: dict[str, Callable[[list[Any]], bool]] = {
    "text": _are_texts,
    "label": _are_labels,
    "words": _are_words,
    "tags": _are_tags,
    "spans": _are_spans,
}
