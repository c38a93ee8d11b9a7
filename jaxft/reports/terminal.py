"""Results on stdout: a table for who looks at a terminal, JSON lines for a program or a file."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from jaxft.host.strict_json import dumps
from jaxft.problems import clipped

LONGEST = 300  # characters of a cell


def print_records(records: Sequence[Mapping[str, Any]]) -> None:
    """One line or one row of a table for each record; the table has a column for each field."""
    if not sys.stdout.isatty():
        for record in records:
            print(dumps(record, ensure_ascii=False, default=str), flush=True)
        return
    columns = list(dict.fromkeys(name for record in records for name in record))
    print_table("", columns, [[record.get(name) for name in columns] for record in records])


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table on the terminal, with numbers on the right; None is an empty cell."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, title_justify="left")
    for place, name in enumerate(columns):
        numeric = all(isinstance(row[place], int | float | None) for row in rows)
        table.add_column(Text(name), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(shown(cell)) for cell in row))
    Console(file=sys.stdout).print(table)


def shown(value: Any) -> str:
    """A cell: four decimals, nothing for None, at most LONGEST characters, none of which moves the cursor."""
    if isinstance(value, float):
        return f"{value:.4f}"
    text = "" if value is None else value if isinstance(value, str) else dumps(value, ensure_ascii=False, default=str)
    text = clipped(text, LONGEST)
    return "".join(letter if letter.isprintable() or letter == "\n" else " " for letter in text)
