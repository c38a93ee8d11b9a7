"""Cells that hold lists: as lists, or as the texts that pandas and NumPy write for them into csv."""

import ast
import re
from typing import Any

PLAIN = {"True": True, "true": True, "False": False, "false": False, "None": None, "null": None, "nan": None}
NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
ESCAPE = r"\\[\\'\"abfnrtvxuU0-7]"
ITEM = re.compile(rf"""'(?:[^'\\\n]|{ESCAPE})*'|"(?:[^"\\\n]|{ESCAPE})*"|{NUMBER}|{"|".join(PLAIN)}""")
BETWEEN = re.compile(r"\s*,\s*|\s+|$")


def list_of(value: Any) -> list[Any] | None:
    """The items of a list, or of a text that spells one ("['joy', 'fear']", "[1 0 1]"); None for other cells.

    A spelled list may hold quoted texts, numbers, truth values and missing values. A text in brackets with any other
    content, such as the name [UNK], is not a list.
    """
    if isinstance(value, list):
        return value
    inside = value.strip() if isinstance(value, str) else ""
    return _items(inside[1:-1].strip()) if inside.startswith("[") and inside.endswith("]") else None


def _items(text: str) -> list[Any] | None:
    items: list[Any] = []
    place = 0
    while place < len(text):
        item = ITEM.match(text, place)
        between = BETWEEN.match(text, item.end()) if item else None
        if not item or not between:
            return None
        try:
            items.append(_value(item[0]))
        except (SyntaxError, ValueError):  # an escape without its digits, or a number with thousands of digits
            return None
        place = between.end()
    return items


def _value(item: str) -> Any:
    # Python's literals have no leading zeros in integers.
    if item in PLAIN:
        return PLAIN[item]
    return ast.literal_eval(item if item[0] in "'\"" else re.sub(r"^([-+]?)0+(?=\d)", r"\1", item))
