"""Cells that hold lists: as lists, and as the texts that pandas and NumPy write of them into csv."""

import ast
import re

PLAIN = {"True": True, "true": True, "False": False, "false": False, "None": None, "null": None, "nan": None}
NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
ESCAPE = r"\\[\\'\"abfnrtvxuU0-7]"
ITEM = re.compile(rf"""'(?:[^'\\\n]|{ESCAPE})*'|"(?:[^"\\\n]|{ESCAPE})*"|{NUMBER}|{"|".join(PLAIN)}""")
BETWEEN = re.compile(r"\s*,\s*|\s+|$")


def list_of(value) -> list | None:
    """A cell's items: of a list, or of a text that spells one ("['joy', 'fear']", "[1 0 1]"); None for other cells.

    Items of a spelled list are quoted texts, numbers, truth values and missing values. A text in brackets that holds
    anything else, such as the name [UNK], is a text.
    """
    if isinstance(value, list):
        return value
    inside = value.strip() if isinstance(value, str) else ""
    return _items(inside[1:-1].strip()) if inside.startswith("[") and inside.endswith("]") else None


def _items(text: str) -> list | None:
    items, place = [], 0
    while place < len(text):
        item = ITEM.match(text, place)
        between = item and BETWEEN.match(text, item.end())
        if not between:
            return None
        try:
            items.append(_value(item[0]))
        except (SyntaxError, ValueError):  # an escape without its digits, a number of thousands of them
            return None
        place = between.end()
    return items


def _value(item: str):
    """Of an item as it is written; Python takes no leading zeros of whole numbers."""
    if item in PLAIN:
        return PLAIN[item]
    return ast.literal_eval(item if item[0] in "'\"" else re.sub(r"^([-+]?)0+(?=\d)", r"\1", item))
