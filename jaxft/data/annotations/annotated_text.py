"""A text with its spans, as an annotation tool counts their offsets."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from jaxft.data.example import Row
from jaxft.problems import SHOWN, UserError, raise_problems, truncated_repr

TEXT, SPANS = "text", "spans"  # the columns of the rows


class Mark(NamedTuple):
    """A span: its label, and its text, if the export has it."""

    start: int
    end: int
    label: str
    text: str | None = None


@dataclass
class AnnotatedText:
    """What an export says of one text."""

    text: str
    marks: list[Mark] | None  # None: nobody annotated it
    more: Row  # further columns
    tokens: list[Mark] = field(default_factory=list)  # further pieces of the text whose places the export has
    place: str = ""  # of messages: the file and the row

    def with_texts(self) -> list[Mark]:
        """The marks and tokens whose texts are known."""
        return [mark for mark in [*(self.marks or []), *self.tokens] if mark.text is not None]


def read_records(values: Iterable[Any], path: str, read: Callable[[Any], AnnotatedText | None]) -> list[AnnotatedText]:
    """The records of a file; those for which `read` gives None are left out. Raises one UserError for all rows."""
    found: list[AnnotatedText] = []
    problems: list[str] = []
    for number, value in enumerate(values, 1):
        place = f"{path}, row {number}"
        try:
            record = read(value)
        except UserError as error:
            problems += [f"{place}: {problem}" for problem in error.problems]
            continue
        if record is not None:
            record.place = place
            found.append(record)
    raise_listed(problems, path)
    return found


def raise_listed(problems: list[str], path: str) -> None:
    """Raises a UserError with the first SHOWN problems and the number of others, if there are any."""
    others = len(problems) - SHOWN
    raise_problems(problems[:SHOWN] + ([f"{path}: {others:,} more problems like these"] if others > 0 else []))


def mark_of(start: Any, end: Any, label: Any, text: Any = None) -> Mark:
    """A mark. Raises UserError unless the offsets are integers and the label is a text or a number."""
    if type(start) is not int or type(end) is not int:
        raise UserError(f"expected integers for the start and the end of a span, found {truncated_repr((start, end))}")
    if not isinstance(label, str | int) or isinstance(label, bool) or not str(label).strip():
        raise UserError(f"expected a label for the span {start} to {end}, found {truncated_repr(label)}")
    return Mark(start, end, str(label), text if isinstance(text, str) else None)


def in_order(marks: Iterable[Mark]) -> list[Mark]:
    """The marks, ordered by place and label."""
    return sorted(marks, key=lambda mark: mark[:3])


def are_triples(value: Any) -> bool:
    """Whether a value is a list of [start, end, label]."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(one, list) and len(one) >= 3 for one in value)
        and all(type(one[0]) is int and type(one[1]) is int and isinstance(one[2], str) for one in value[:1])
    )


def triples(value: Any) -> list[Mark] | None:
    """The marks of a list of [start, end, label]; None for None."""
    if value is None:
        return None
    if not isinstance(value, list) or any(not isinstance(one, list) or len(one) < 3 for one in value):
        raise UserError(f"expected a list of [start, end, label], found {truncated_repr(value)}")
    return [mark_of(*one[:3]) for one in value]


def text_of_record(value: Any) -> str:
    """The text of an object. Raises UserError if it has none."""
    if not isinstance(value, dict) or not isinstance(value.get(TEXT), str):
        raise UserError(f"expected an object with a text {TEXT!r}, found {truncated_repr(value)}")
    return value[TEXT]


def simple_fields(value: Row, *others: str) -> Row:
    """The fields that are texts, numbers or truth values, without the columns of the rows and `others`."""
    return {
        name: cell
        for name, cell in value.items()
        if isinstance(cell, str | int | float) and name not in (TEXT, SPANS, *others)
    }
