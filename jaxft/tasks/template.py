"""Texts from the columns of a row: a name is that of a column, or a template such as "{word}: {sentence}"."""

import logging
import re
import string
from typing import Any

from jaxft.data.example import Row
from jaxft.problems import UserError, raise_problems, truncated_repr

log = logging.getLogger("jaxft")

SURROGATE = re.compile("[\ud800-\udfff]")


def columns_of(*templates: str | None) -> list[str]:
    """The columns that these names and templates need, without duplicates; None needs none."""
    return list(dict.fromkeys(name for template in templates if template is not None for name in _columns(template)))


def column(rows: list[Row], template: str) -> list[str]:
    """For each row the text of a column, or of a template filled with the row; a missing value is an empty text.

    In a template, `{name}` is the value of a column, `{name[key]}` an item of it, and `{{` a brace. Raises UserError
    for values that are not texts, and for a malformed template.
    """
    if "{" not in template:
        return ["" if row[template] is None else text_of(row[template], template) for row in rows]
    _columns(template)
    try:
        return [FORMAT.vformat(template, (), row) for row in rows]
    except (LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{truncated_repr(template)} cannot be filled: a row has no such item ({error})") from None


def ids_of(rows: list[Row], template: str | None) -> list[str]:
    """Ids of the rows in files of answers: the texts of the column or template, if they are distinct.

    A row without an id has its number from 0. All rows have their numbers if ids repeat or there is no such column.
    """
    numbers = [str(number) for number in range(len(rows))]
    if template is None or not all(name in row for row in rows for name in _columns(template)):
        return numbers
    given = [name.strip() or number for name, number in zip(column(rows, template), numbers, strict=True)]
    if len(set(given)) == len(given):
        return given
    log.warning("column %r has the same id for several rows: files of answers use row numbers from 0 instead", template)
    return numbers


def text_of(value: Any, name: str) -> str:
    """A cell of column `name` as text: texts as they are, numbers and truth values as they print."""
    if not isinstance(value, str | int | float) or value != value:  # the last is true for NaN
        raise_problems([f"column {name!r} holds {truncated_repr(value)}, expected a text"])
    text = str(value)
    if not text.isascii() and SURROGATE.search(text):  # tokenizers reject it
        raise_problems(
            [f"column {name!r} holds {truncated_repr(value)}, with half of a surrogate pair: retype the character"]
        )
    return text


class _Cells(string.Formatter):
    def get_field(self, field_name: str, args: Any, kwargs: Any) -> tuple[Any, Any]:
        value, first = super().get_field(field_name, args, kwargs)
        return "" if value is None else text_of(value, field_name), first


FORMAT = _Cells()


def _columns(template: str) -> list[str]:
    if "{" not in template:
        return [template]
    try:
        fields = [(field, form, how) for _, field, form, how in FORMAT.parse(template) if field is not None]
    except ValueError as error:
        raise UserError(
            f"the template {truncated_repr(template)} cannot be read: {error}. It names columns "
            "in braces, as in '{text}'"
        ) from None
    names = [field.partition("[")[0] for field, _, _ in fields]
    if not all(names) or not names:
        raise UserError(
            f"the template {truncated_repr(template)} has braces without the name of a column: write {{column}}"
        )
    if any(form or how or "." in re.sub(r"\[[^\]]*\]", "", field) for field, form, how in fields):
        allowed = "{column} or {column[key]}"
        raise UserError(f"the template {truncated_repr(template)} has a format or an attribute: use {allowed}")
    return names
