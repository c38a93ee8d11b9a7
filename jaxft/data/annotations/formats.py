"""Which annotation tool wrote a JSON file, by its first text that has spans."""

import itertools
import logging
from collections.abc import Iterator
from typing import Any

from jaxft.data.annotations import doccano, label_studio, label_studio_min, pairs, prodigy
from jaxft.data.annotations.units import rows_of
from jaxft.data.example import Row
from jaxft.problems import UserError, truncated_repr

log = logging.getLogger("jaxft")

FORMATS = (doccano, prodigy, pairs, label_studio, label_studio_min)
# Keys that hold spans in one of the formats. Until one of them has a value, the format is open.
KEYS = {*doccano.LISTS, pairs.KEY, "spans", "annotations"}


def annotated(values: Iterator[Any], path: str, offsets: str | None) -> Iterator[Row]:
    """The values of a file; if they are texts with spans of one of FORMATS, rows with `text` and `spans`.

    `offsets` is what the spans count, a key of UNITS; None: what the texts of the spans show.
    """
    begin: list[Any] = []
    for value in values:
        begin.append(value)
        if not _is_open(value):
            break
    values = itertools.chain(begin, values)
    kind = next((kind for kind in FORMATS if begin and kind.fits(begin[-1])), None)
    if kind is None:
        return _objects(values, path)
    log.info("%s: read as an export of %s, with the columns text and spans", path, kind.NAME)
    return rows_of(kind.records(values, path), path, offsets)


def unwrapped(value: Any) -> Any:
    """The list of pairs (data/annotations/pairs.py) in an object that has one as `annotations`; else the value."""
    inside = value.get("annotations") if isinstance(value, dict) else None
    if isinstance(inside, list) and any(map(pairs.is_pair, inside)):
        return [one for one in inside if one is not None]
    return value


def _is_open(value: Any) -> bool:
    """Whether a value has no span, but a place for spans, so that the next one has to tell the format."""
    if not isinstance(value, dict) or any(kind.fits(value) for kind in FORMATS):
        return False
    if label_studio.is_task(value) or label_studio_min.is_annotation(value):
        return True
    held = [value[name] for name in KEYS if name in value]
    return bool(held) and all(one is None or one == [] for one in held)


def _objects(values: Iterator[Any], path: str) -> Iterator[Row]:
    for number, value in enumerate(values, 1):
        if not isinstance(value, dict):
            raise UserError(f"{path}, row {number}: expected an object as before, found {truncated_repr(value)}")
        yield value
