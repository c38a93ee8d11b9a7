"""What an export's offsets count: characters (code points), UTF-16 units as JavaScript does, or graphemes.

They differ from the first emoji on. The texts of the spans, where an export has them, tell which it is.
"""

import logging
from collections.abc import Callable, Iterator

from jaxft.data.annotations.annotated_text import SPANS, TEXT, AnnotatedText, Mark, raise_listed
from jaxft.data.example import Row
from jaxft.problems import truncated_repr
from jaxft.text.graphemes import CLUSTER

log = logging.getLogger("jaxft")

FIX = "correct it, or set config.data.offsets"
INSIDE = -1  # an offset inside a character


def _characters(text: str) -> list[int]:
    return list(range(len(text) + 1))


def _utf16(text: str) -> list[int]:
    units = [place for at, letter in enumerate(text) for place in ([at, INSIDE] if letter > "\uffff" else [at])]
    return [*units, len(text)]


def _graphemes(text: str) -> list[int]:
    return [0, *(found.end() for found in CLUSTER.finditer(text))]


# For each unit, the character at which each offset of a text is.
UNITS: dict[str, Callable[[str], list[int]]] = {
    "characters": _characters,
    "utf16": _utf16,
    "graphemes": _graphemes,
}


def rows_of(records: list[AnnotatedText], path: str, asked: str | None) -> Iterator[Row]:
    """The rows, whose spans count characters. `asked` is a key of UNITS; None: the one with which all texts agree.

    Raises a UserError that lists the spans that have another text than the export says, and those outside their texts.
    """
    unit = asked or _unit_of(records, path)
    problems = [problem for record in records for problem in _faults(record, unit, True)]
    raise_listed(problems, path)
    for record in records:
        at = UNITS[unit](record.text)
        spans = None
        if record.marks is not None:
            spans = [{"start": at[mark.start], "end": at[mark.end], "label": mark.label} for mark in record.marks]
        yield {**record.more, TEXT: record.text, SPANS: spans}


def _unit_of(records: list[AnnotatedText], path: str) -> str:
    wrong = {unit: sum(len(_faults(record, unit, False)) for record in records) for unit in UNITS}
    best = min(UNITS, key=lambda unit: wrong[unit])  # the first one of equal ones
    if wrong[best]:
        return best
    if best != "characters":
        log.info("%s: the offsets of spans count %s, as the texts of the spans show", path, best)
    for unit in UNITS:
        other = next((record for record in records if _differ(record, best, unit)), None) if not wrong[unit] else None
        if other is not None:
            log.warning(
                "%s: the offsets of spans are read as %s; as %s some would be other ones (the first: %s). If the tool "
                "counts these, set config.data.offsets=%s",
                path,
                best,
                unit,
                other.place,
                unit,
            )
    return best


def _faults(record: AnnotatedText, unit: str, every: bool) -> list[str]:
    """The marks with another text than the export says and, with `every`, those that are outside of the text."""
    at = UNITS[unit](record.text)
    known = record.with_texts()
    found = [
        f"{record.place}: the span {mark.start} to {mark.end} is {truncated_repr(_piece(record.text, at, mark))}, "
        f"not {truncated_repr(mark.text)}, as the file says (offsets in {unit}): correct the file, or set "
        f"config.data.offsets to {' or '.join(other for other in UNITS if other != unit)}"
        for mark in known
        if _plain(_piece(record.text, at, mark)) != _plain(mark.text or "")
    ]
    if found or not every:
        return found
    return [
        f"{record.place}: the span {mark.start} to {mark.end} ({mark.label}) {_place_fault(at, mark)}"
        f" (offsets in {unit})"
        for mark in record.marks or []
        if not _is_inside(at, mark)
    ]


def _is_inside(at: list[int], mark: Mark) -> bool:
    return 0 <= mark.start <= mark.end < len(at) and INSIDE not in (at[mark.start], at[mark.end])


def _place_fault(at: list[int], mark: Mark) -> str:
    if not 0 <= mark.start <= mark.end < len(at):
        return f"is outside of the text, which has {len(at) - 1}, or ends before it starts: {FIX}"
    return f"begins or ends inside a character: {FIX}"


def _piece(text: str, at: list[int], mark: Mark) -> str:
    return text[at[mark.start] : at[mark.end]] if _is_inside(at, mark) else ""


def _plain(text: str) -> str:
    """The text without white space: tools write line breaks in spans as spaces, or as a backslash and n."""
    return "".join(text.replace("\\n", " ").split())


def _differ(record: AnnotatedText, unit: str, other: str) -> bool:
    """Whether a span has other characters in the two units."""
    if unit == other or record.text.isascii() and "\r" not in record.text:
        return False
    one, two = UNITS[unit](record.text), UNITS[other](record.text)
    return any(
        _is_inside(one, mark)
        and _is_inside(two, mark)
        and (one[mark.start], one[mark.end]) != (two[mark.start], two[mark.end])
        for mark in record.marks or []
    )
