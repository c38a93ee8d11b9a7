"""Which field of an export holds the text: its name is the user's choice, and the export does not say it."""

import logging
from collections.abc import Collection
from typing import Any

from jaxft.data.annotations.annotated_text import TEXT, Mark
from jaxft.data.example import Row
from jaxft.problems import UserError, listed

log = logging.getLogger("jaxft")


def text_field(found: list[tuple[Row, list[Mark]]], path: str, others: Collection[str] = ()) -> str:
    """The field, in the objects, that holds the texts of the marks; without `others`.

    It is the only one that holds texts, or the only one that contains the text of every mark.
    """
    names = list(
        dict.fromkeys(
            name for row, _ in found for name, cell in row.items() if isinstance(cell, str) and name not in others
        )
    )
    if len(names) > 1:
        right = [name for name in names if all(_holds(row.get(name), marks) for row, marks in found)]
        names = right if right else [name for name in names if name == TEXT]
        names = [TEXT] if len(names) > 1 and TEXT in names else names
    if len(names) != 1:
        raise UserError(
            f"{path}: which field is annotated? {listed(names) if names else 'None'} holds the texts of the spans: "
            f"export the tasks with one text, called {TEXT}"
        )
    if names[0] != TEXT:
        log.info("%s: the annotated text is the field %r, which becomes the column %s", path, names[0], TEXT)
    return names[0]


def _holds(cell: Any, marks: list[Mark]) -> bool:
    whole = "".join(cell.split()) if isinstance(cell, str) else ""
    return all("".join((mark.text or "").replace("\\n", " ").split()) in whole for mark in marks)
