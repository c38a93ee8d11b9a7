"""What the columns of a file hold: texts, classes, numbers, lists, answers."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxft.data.example import Row
from jaxft.tasks.labels import finite_number, is_missing
from jaxft.tasks.list_cells import list_of

CLASSES = 1000  # the most different values of a column of classes
NAME = 40  # the longest name of a class, in characters
CONTENTS = {  # kind -> how messages call what a column of this kind holds
    "text": "texts",
    "class": "classes",
    "binary": "0 and 1",
    "number": "numbers",
    "words": "lists of words",
    "tags": "lists of tags",
    "list": "lists",
    "joined": "names joined by |",
    "spans": "spans of characters with labels",
    "answers": "answers with text and answer_start",
    "constant": "one value",
    "empty": "nothing",
    "other": "other values",
}


@dataclass(frozen=True)
class Column:
    """A column of the data: its name, what it may hold (CONTENTS), and its values that are not missing."""

    name: str
    kinds: tuple[str, ...]
    values: tuple[Any, ...]
    missing: int

    @property
    def holds(self) -> str:
        return " or ".join(CONTENTS[kind] for kind in self.kinds)

    def counts(self) -> Counter[str]:
        """How often each value occurs."""
        return Counter(str(value).strip() for value in self.values)


def columns_of_rows(rows: Sequence[Row], names: Sequence[str]) -> dict[str, Column]:
    """The columns by name."""
    found = {}
    for name in names:
        values = tuple(row[name] for row in rows if not is_missing(row[name]))
        found[name] = Column(name, _kinds(values), values, len(rows) - len(values))
    return found


def _kinds(values: tuple[Any, ...]) -> tuple[str, ...]:
    if not values:
        return ("empty",)
    if all(isinstance(value, dict) for value in values):
        return ("answers",) if all({"text", "answer_start"} <= value.keys() for value in values) else ("other",)
    if all(isinstance(value, list) and value and all(map(_is_span, value)) for value in values if value != []):
        return ("spans",) if any(values) else ("empty",)
    lists = [list_of(value) for value in values]
    if any(lists):
        return _list_kinds([items for items in lists if items]) if None not in lists else ("other",)
    texts = [str(value).strip() for value in values]
    different, longest = len(set(texts)), max(map(len, texts))
    if different == 1:
        return ("constant",) if longest <= NAME else ("text",)
    repeated = different <= CLASSES and 2 * different <= len(texts) and longest <= NAME
    if all(finite_number(value) is not None for value in values):
        binary = ("binary",) if set(texts) <= {"0", "1"} else ()
        whole = repeated and all(float(text).is_integer() for text in texts)
        return (*binary, *("class",) * whole, "number")
    joined = ("joined",) * (repeated and any("|" in text for text in texts))
    return (*joined, "class") if repeated else ("text",)


def _is_span(item: Any) -> bool:
    return isinstance(item, dict) and {"start", "end", "label"} <= item.keys()


def _list_kinds(lists: list[list[Any]]) -> tuple[str, ...]:
    items = [item for one in lists for item in one]
    different = len({str(item) for item in items})
    tags = ("tags",) * (2 * different <= len(items) and different <= CLASSES)
    words = ("words",) * all(isinstance(item, str) for item in items)
    return (*words, *tags, "list")
