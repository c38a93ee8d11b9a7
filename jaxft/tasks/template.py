"""Texts made of a row's columns: `column` names one, or is a template such as "{word}: {sentence}"."""

import logging
import re
import string

from jaxft.problems import UserError, raise_problems, truncated_repr

log = logging.getLogger("jaxft")

SURROGATE = re.compile("[\ud800-\udfff]")


def columns_of(*templates: str | None) -> list[str]:
    """The columns that these names and templates need, each once; None needs none."""
    return list(dict.fromkeys(name for template in templates if template is not None for name in _columns(template)))


def column(rows: list[dict], template: str) -> list[str]:
    """The texts of a column, or of a template filled with each row; a missing value is an empty text.

    In a template `{name}` is the value of a column, `{name[key]}` a part of it, and `{{` a brace. Raises UserError for
    what is no text, and for a template that cannot be read.
    """
    if "{" not in template:
        return ["" if row[template] is None else text_of(row[template], template) for row in rows]
    _columns(template)
    try:
        return [FORMAT.vformat(template, (), row) for row in rows]
    except (LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{truncated_repr(template)} asks for a part that a row does not have: {error}") from None


def ids_of(rows: list[dict], template: str | None) -> list[str]:
    """What rows are called in files of answers: as the column or template says, if no two are called alike.

    Without a column, and where a cell is empty, it is the row's number from 0; where two are called alike, of all rows.
    """
    numbers = [str(number) for number in range(len(rows))]
    if template is None or not all(name in row for row in rows for name in _columns(template)):
        return numbers
    given = [name.strip() or number for name, number in zip(column(rows, template), numbers, strict=True)]
    if len(set(given)) == len(given):
        return given
    log.warning("column %r calls several rows alike: in files of answers they are numbered from 0", template)
    return numbers


def text_of(value, name: str) -> str:
    """A cell of column `name` as text: a text as it is, numbers and truth values as they print."""
    if not isinstance(value, str | int | float) or value != value:  # the last: not a number
        raise_problems([f"column {name!r} holds {truncated_repr(value)}, expected a text"])
    text = str(value)
    if not text.isascii() and SURROGATE.search(text):  # no tokenizer takes it
        raise_problems(
            [f"column {name!r} holds {truncated_repr(value)}, with half of a character: retype the character"]
        )
    return text


class _Cells(string.Formatter):
    def get_field(self, field_name, args, kwargs):
        value, first = super().get_field(field_name, args, kwargs)
        return "" if value is None else text_of(value, field_name), first


FORMAT = _Cells()


def _columns(template: str) -> list[str]:
    if "{" not in template:
        return [template]
    try:
        fields = [piece[1:] for piece in FORMAT.parse(template) if piece[1] is not None]
    except ValueError as error:
        raise UserError(
            f"the template {truncated_repr(template)} cannot be read: {error}. It names columns "
            "in braces, as in '{text}'"
        ) from None
    names = [field.partition("[")[0] for field, _, _ in fields]
    if not all(names) or not names:
        raise UserError(f"the template {truncated_repr(template)} has braces without a column's name")
    if any(form or how or "." in re.sub(r"\[[^\]]*\]", "", field) for field, form, how in fields):
        form = "only {column} and {column[key]}"
        raise UserError(f"the template {truncated_repr(template)} has a format or an attribute: {form}")
    return names
