"""Labelled spans of characters: what is wrong with them, and the tags of the words that they cover."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from jaxft.text.entities import OUTSIDE
from jaxft.text.graphemes import extend_to_graphemes

# The letters of each scheme's prefixes: for a single word, the first, a word inside, the last.
LETTERS = {
    "BIO": ("B", "B", "I", "I"),
    "IO": ("I", "I", "I", "I"),
    "IOBES": ("S", "B", "I", "E"),
    "BILOU": ("U", "B", "I", "L"),
}


class LabelledSpan(NamedTuple):
    """The characters from `start` up to, but excluding, `end`."""

    start: int
    end: int
    label: str


class UnitTags(NamedTuple):
    """The tags of a text's units, and the spans that they do not express exactly."""

    tags: list[str]
    cut: list[LabelledSpan]  # begin or end inside a unit, all of which is tagged
    lost: list[LabelledSpan]  # have no unit, or one that a span before has


def span_faults(text: str, spans: Sequence[LabelledSpan]) -> Iterator[str]:
    """What makes spans useless as tags: places outside of the text or inside a grapheme, nothing in them, overlaps."""
    whole = extend_to_graphemes(text, [(0, 0) if _is_outside(text, one) else one[:2] for one in spans]).tolist()
    for one, border in zip(spans, whole, strict=True):
        where = f"the span {one.start} to {one.end} ({one.label})"
        if _is_outside(text, one):
            yield f"{where} is outside of the text, which has {len(text)} characters, or ends before it starts"
        elif not text[one.start : one.end].strip():
            yield f"{where} holds no text"
        elif border != [one.start, one.end]:
            piece = text[border[0] : border[1]]
            yield f"{where} begins or ends inside a character, of {piece!r}: does its tool count other units?"
    for before, one in pairwise(sorted(set(spans))):
        if one.start < before.end:
            yield (
                f"the spans {before.start} to {before.end} ({before.label}) and {one.start} to {one.end} "
                f"({one.label}) overlap: a word has one tag, leave one of them out"
            )


def _is_outside(text: str, span: LabelledSpan) -> bool:
    return not 0 <= span.start <= span.end <= len(text)


def tags_of_units(text: str, units: Sequence[tuple[int, int]], spans: Sequence[LabelledSpan], scheme: str) -> UnitTags:
    """The tags, in a scheme of LETTERS, of the units (start, stop) that spans without faults cover.

    White space at the ends of a span does not count.
    """
    found = UnitTags([OUTSIDE] * len(units), [], [])
    unit = 0
    for one in sorted(set(spans)):
        piece = text[one.start : one.end]
        start, end = one.end - len(piece.lstrip()), one.start + len(piece.rstrip())
        while unit < len(units) and units[unit][1] <= start:
            unit += 1
        stop = unit
        while stop < len(units) and units[stop][0] < end:
            stop += 1
        if unit == stop or found.tags[unit] != OUTSIDE:
            found.lost.append(one)
            continue
        letters = _letters(scheme, stop - unit)
        found.tags[unit:stop] = [f"{letter}-{one.label}" for letter in letters]
        if (units[unit][0], units[stop - 1][1]) != (start, end):
            found.cut.append(one)
    return found


def _letters(scheme: str, count: int) -> list[str]:
    """The letters of an entity of `count` words."""
    single, first, inside, last = LETTERS[scheme]
    return [single] if count == 1 else [first, *[inside] * (count - 2), last]
