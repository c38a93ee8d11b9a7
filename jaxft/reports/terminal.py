"""Results on stdout: a table for who looks at a terminal, JSON lines for a program or a file."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from jaxft.host.strict_json import dumps
from jaxft.problems import clipped

LONGEST = 300  # characters of a cell


def print_records(records: Sequence[Mapping[str, Any]]) -> None:
    """One line or one row of a table for each record; the table has a column for each field."""
    if not sys.stdout.isatty():
        for record in records:
            print(dumps(record, ensure_ascii=False, default=str), flush=True)
        return
    _print_lines("", records)


def print_evaluation(results: Mapping[str, Mapping[str, Any]]) -> None:
    """Prints what `evaluate_all` gives, in process 0 only: a JSON line for each set, each class and each slice.

    On a terminal, tables: metrics down, sets across; then the classes and the slices of each set.
    """
    if jax.process_index() != 0:
        return
    if not sys.stdout.isatty():
        for name, numbers in results.items():
            own = {key: value for key, value in numbers.items() if key != "lines"}
            for line in (own, *numbers.get("lines", ())):
                print(dumps({"split": name, **line}), flush=True)
        return
    metrics = dict.fromkeys(
        name for numbers in results.values() for name in numbers if name not in ("interval", "lines")
    )
    rows = [[name, *(_with_interval(numbers, name) for numbers in results.values())] for name in metrics]
    print_table("", ["metric", *results], rows)
    for name, numbers in results.items():
        lines = numbers.get("lines", [])
        slices = [line for line in lines if "slice" in line]
        _print_lines(f"{name}: classes", [_class_row(line) for line in lines if "slice" not in line])
        _print_lines(f"{name}: slices", list(map(_slice_row, slices)))


def _with_interval(numbers: Mapping[str, Any], name: str) -> Any:
    """The number, with its interval if there is one: "0.8012 [0.7700, 0.8300]"."""
    interval = numbers.get("interval", {}).get(name)
    if interval is None or name not in numbers:
        return numbers.get(name)
    return f"{shown(numbers[name])} [{', '.join(map(shown, interval))}]"


def _class_row(line: Mapping[str, Any]) -> dict[str, Any]:
    name = line["class"] if "class" in line else f"{line['average']} average"
    return {"class": name} | {key: value for key, value in line.items() if key not in ("class", "average")}


def _slice_row(line: Mapping[str, Any]) -> dict[str, Any]:
    names = [name for name in line if name not in ("slice", "interval")]
    return {line["slice"]["column"]: line["slice"]["value"]} | {name: _with_interval(line, name) for name in names}


def _print_lines(title: str, lines: Sequence[Mapping[str, Any]]) -> None:
    if lines:
        columns = list(dict.fromkeys(name for line in lines for name in line))
        print_table(title, columns, [[line.get(name) for name in columns] for line in lines])


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
